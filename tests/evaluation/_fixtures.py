"""Small local copies of every benchmark, in the schema of the real ones: 3 to 8 rows each, all pictures random.

MVBench has one row for each of its twenty configurations, since it cannot be read with fewer.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from cambrian_gaze.evaluation.benchmarks.video_extra import MVBENCH_FOLDERS

_generator = np.random.default_rng(0)


def png(width: int = 40, height: int = 30) -> dict[str, Any]:
    """An image cell, as `datasets` stores it."""
    buffer = io.BytesIO()
    Image.fromarray(_generator.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _mme() -> list[dict[str, Any]]:
    rows = []
    for category, picture in (("existence", "1"), ("existence", "2"), ("color", "3"), ("code_reasoning", "4")):
        image = png()
        for answer, question in (("Yes", "Is there a cat?"), ("No", "Is there a dog?")):
            question = f"{question} Please answer yes or no."
            row = {"question_id": f"{category}/{picture}.png", "image": image, "question": question}
            rows.append({**row, "answer": answer, "category": category})
    return rows


def _mmbench() -> list[dict[str, Any]]:
    rows = []
    for index, answer, hint in (
        (1, "A", "nan"),
        (1_000_001, "B", "nan"),
        (2, "A", "A hint."),
        (3, "A", "nan"),
        (1_000_003, "A", "nan"),
    ):
        options = {"A": "a red boat", "B": "a green tree", "C": "nan" if index == 2 else "snow", "D": "nan"}
        row = {"index": index, "question": "What is shown?", "hint": hint, "answer": answer, **options}
        rows.append({**row, "category": "object", "image": png(), "source": "x", "L2-category": "y"})
    return rows


def _cv(rows: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "idx": number,
            "image": png(),
            "prompt": "Which is nearer? Select from the following choices.\n(A) x\n(B) y",
            "choices": ["x", "y"],
            "answer": answer,
            "source": source,
            "task": "Relation",
            "question": "Which is nearer?",
        }
        for number, (source, answer) in enumerate(rows)
    ]


def _mmmu() -> list[dict[str, Any]]:
    empty = dict.fromkeys(f"image_{n}" for n in range(2, 8))
    choice = {"question_type": "multiple-choice", "options": "['3 m', \"Newton's law\"]", **empty}
    return [
        {"id": "validation_Art_1", "question": "<image 1> Which?", "answer": "A", "image_1": png(), **choice},
        {"id": "validation_Art_2", "question": "See <image 1>: which?", "answer": "B", "image_1": png(), **choice},
        {
            "id": "validation_Art_3",
            "question": "<image 1> How many?",
            "answer": "42",
            "image_1": png(),
            "question_type": "open",
            "options": "[]",
            **empty,
        },
        {
            "id": "validation_Art_4",
            "question": "<image 1> and <image 2>: which?",
            "answer": "A",
            "image_1": png(),
            **choice,
            "image_2": png(),
        },
        {
            "id": "validation_Art_5",
            "question": "<image 1> How large?",
            "answer": "['24/7', '3.429']",
            "image_1": png(),
            "question_type": "open",
            "options": "[]",
            **empty,
        },
    ]


def _mathvista() -> list[dict[str, Any]]:
    def row(pid: int, kind: str, answer: str, choices: list[str] | None, precision: float | None) -> dict[str, Any]:
        return {
            "pid": str(pid),
            "query": f"Question {pid}?",
            "question": f"Question {pid}?",
            "image": "images/1.jpg",
            "decoded_image": png(),
            "choices": choices,
            "answer": answer,
            "answer_type": kind,
            "precision": precision,
            "question_type": "multi_choice" if choices else "free_form",
        }

    return [
        row(1, "text", "10 cm", ["8 cm", "10 cm"], None),
        row(2, "text", "Yes", ["Yes", "No"], None),
        row(3, "integer", "5", None, None),
        row(4, "float", "1.5", None, 1.0),
    ]


def _science() -> list[dict[str, Any]]:
    rows = []
    for answer, image, hint in ((0, png(), ""), (1, png(), "Look."), (0, png(), ""), (0, None, "")):
        rows.append(
            {
                "image": image,
                "question": "Which is a solid?",
                "choices": ["rock", "water"],
                "answer": answer,
                "hint": hint,
                "grade": "grade2",
            }
        )
    return rows


def _textvqa() -> list[dict[str, Any]]:
    rows = []
    for number, answers in enumerate((["nokia"] * 10, ["nokia"] * 2 + ["samsung"] * 8, ["12"] * 10)):
        rows.append(
            {
                "question_id": number,
                "image_id": f"i{number // 2}",
                "image": png(),
                "question": "What brand?",
                "answers": answers,
                "ocr_tokens": ["NOKIA", "3310"][:number],
            }
        )
    return rows


def _images(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "image": png()} for row in rows]


def _nextqa() -> list[dict[str, Any]]:
    row = {"question": "what did the man do", "qid": 0, "type": "TN"} | {f"a{n}": f"{n} things " for n in range(5)}
    return [row | {"video": 10 + number, "answer": answer} for number, answer in enumerate((0, 1, 0))]


def _tempcompass(task: str) -> list[dict[str, Any]]:
    """Two questions, the first option right and the second."""
    question, answers = {
        "multi-choice": ("What is he doing?\nA. sitting\nB. running", ["A. sitting", "B. running"]),
        "yes_no": ("Is he running?", ["yes", "no"]),
        "caption_matching": (
            "Which caption fits?\nCaption A: He sits.\nCaption B: He runs.",
            ["Caption A: He sits.", "Caption B: He runs."],
        ),
    }[task]
    rows = [{"question": question, "answer": answer, "dim": "action"} for answer in answers]
    return [{"video_id": f"v{number}"} | row for number, row in enumerate(rows)]


def _captioning() -> list[dict[str, Any]]:
    question = "What is he doing?\nA. sitting\nB. running"
    row = {"question": "Generated Caption:", "mc_question": question, "dim": "action"}
    answers = ("A. sitting", "B. running", "A. sitting")
    return [row | {"video_id": f"v{number}", "mc_answer": answer} for number, answer in enumerate(answers)]


LETTERED = ["A. one", "B. two", "C. three", "D. four"]
TABLES: dict[tuple[str, str | None, str], list[dict[str, Any]]] = (
    {
        ("lmms-lab/MME", None, "test"): _mme(),
        ("lmms-lab/MMBench_EN", None, "dev"): _mmbench(),
        ("lmms-lab/MMBench_CN", None, "dev"): _mmbench(),
        ("lmms-lab/RealWorldQA", None, "test"): _images(
            [
                {"question": "Which way?\nA. Left\nB. Right\nPlease answer directly.", "answer": "A"},
                {"question": "Which way?\nA. Left\nB. Right\nPlease answer directly.", "answer": "B"},
                {"question": "Is it open?", "answer": "Yes"},
                {"question": "How many?", "answer": "3"},
            ]
        ),
        ("nyu-visionx/CV-Bench", "2D", "test"): _cv([("ADE20K", "(A)"), ("COCO", "(A)"), ("ADE20K", "(B)")]),
        ("nyu-visionx/CV-Bench", "3D", "test"): _cv([("Omni3D", "(A)"), ("Omni3D", "(A)"), ("Omni3D", "(B)")]),
        ("lmms-lab/GQA", "testdev_balanced_instructions", "testdev"): [
            {"id": str(number), "imageId": f"n{number // 2}", "question": "Is it?", "answer": answer}
            for number, answer in enumerate(("yes", "no", "yes", "red"))
        ],
        ("lmms-lab/GQA", "testdev_balanced_images", "testdev"): _images([{"id": "n1"}, {"id": "n0"}]),
        ("derek-thomas/ScienceQA", None, "test"): _science(),
        ("lmms-lab/MMMU", None, "validation"): _mmmu(),
        ("AI4Math/MathVista", None, "testmini"): _mathvista(),
        ("lmms-lab/ChartQA", None, "test"): _images(
            [
                {"question": "How much?", "answer": answer, "type": "human_test"}
                for answer in ("14", "Yes", "0.57", "2009")
            ]
        ),
        ("echo840/OCRBench", None, "test"): _images(
            [
                {"question": "What is written?", "answer": ["CENTRE"], "dataset": "IIIT5K", "question_type": "Regular"},
                {"question": "What is the price?", "answer": ["$12", "12"], "dataset": "SROIE", "question_type": "KIE"},
                {
                    "question": "Write the formula.",
                    "answer": ["x ^ { 2 }"],
                    "dataset": "HME100k",
                    "question_type": "HMER",
                },
            ]
        ),
        ("lmms-lab/textvqa", None, "validation"): _textvqa(),
        ("lmms-lab/Video-MME", None, "test"): [
            {
                "videoID": f"v{number // 2}",
                "question_id": f"{number}",
                "question": "What?",
                "options": LETTERED,
                "answer": answer,
                "duration": "short",
                "domain": "x",
                "sub_category": "y",
                "task_type": "z",
            }
            for number, answer in enumerate("ABA")
        ],
        ("lmms-lab/egoschema", "Subset", "test"): [
            {
                "question_idx": str(number),
                "question": "What does c do?",
                "video_idx": f"v{number}",
                "answer": str(number),
                "option": [*LETTERED, "E. five"],
            }
            for number in range(3)
        ],
        ("longvideobench/LongVideoBench", None, "validation"): [
            {
                "id": f"v{number}_0",
                "video_path": f"v{number}.mp4",
                "question": "When?",
                "correct_choice": number,
                "option0": "one",
                "option1": "two",
                "option2": "three",
                "option3": "N/A",
                "option4": "N/A",
            }
            for number in range(3)
        ],
        ("lmms-lab/PerceptionTest_Val", "mc_question_val", "validation"): [
            {
                "video_name": f"v{number}",
                "question_id": str(number),
                "question": "Which?",
                "answer_id": str(number),
                "options": ["one", "two", "three"],
                "area": "x",
                "reasoning": "y",
                "tag": ["z"],
            }
            for number in range(3)
        ],
        ("nyu-visionx/VSI-Bench", "full", "test"): [
            {
                "id": number,
                "dataset": "scannet",
                "scene_name": f"v{number}",
                "question_type": kind,
                "question": "Which?",
                "ground_truth": truth,
                "options": options,
            }
            for number, (kind, truth, options) in enumerate(
                (
                    ("object_rel_direction_easy", "A", LETTERED[:2]),
                    ("object_rel_direction_medium", "B", LETTERED[:3]),
                    ("object_rel_direction_hard", "C", LETTERED),
                    ("object_counting", "4", None),
                )
            )
        ],
        ("sy1998/MLVU_dev", None, "test"): [
            {
                "video_name": f"v{number}.mp4",
                "question": "How many?\n(A) 1\n(B) 2\n(C) 3\n(D) 4",
                "answer": answer,
                "task_type": task,
                "duration": 3.0,
            }
            for number, (answer, task) in enumerate((("A", "count"), ("B", "count"), ("A", "ego")))
        ],
        ("lmms-eval/NExTQA", "MC", "test"): _nextqa(),
        ("lmms-eval/TempCompass", "captioning", "test"): _captioning(),
    }
    | {
        ("lmms-eval/TempCompass", task, "test"): _tempcompass(task)
        for task in ("multi-choice", "yes_no", "caption_matching")
    }
    | {
        ("OpenGVLab/MVBench", task, "train"): [
            {
                "video": "v0.mp4",
                "question": "What?",
                "candidates": ["one", "two", "three"],
                "answer": ["one", "two", "three", "two"][number % 4],
            }
        ]
        for number, task in enumerate(MVBENCH_FOLDERS)
    }
)
"""(dataset, configuration, split) → rows."""

CONSTANT = {
    "mme": ("Yes", 100.0, 100.0),
    "mmbench_en": ("A", 200 / 3, 200 / 3),
    "mmbench_cn": ("A", 200 / 3, 200 / 3),
    "mmvp": ("A", 100 / 3, 100 / 3),
    "realworldqa": ("A", 25.0, 25.0),
    "ade": ("A", 50.0, 50.0),
    "omni": ("A", 200 / 3, 200 / 3),
    "gqa": ("yes", 50.0, 50.0),
    "sqa_i": ("A", 200 / 3, 200 / 3),
    "mmmu_val": ("A", 40.0, 40.0),
    "mathvista": ("5", 25.0, 25.0),
    "chartqa": ("14.5", 25.0, 25.0),
    "ocrbench": ("the centre", 100 / 3, 100 / 3),
    "textvqa": ("nokia", 160 / 3, 160 / 3),
    "videomme": ("A", 200 / 3, 200 / 3),
    "egoschema": ("A", 100 / 3, 100 / 3),
    "mvbench": ("A", 25.0, 25.0),
    "longvideobench": ("A", 100 / 3, 100 / 3),
    "perceptiontest": ("A", 100 / 3, 100 / 3),
    "vsibench": ("A", 50 / 3, 50 / 3),
    "mlvu": ("A", 75.0, 75.0),
    "nextqa": ("A", 200 / 3, 200 / 3),
    "tempcompass": ("A", 100 / 3, 100 / 3),
    "tempcompass_captioning": ("A", 200 / 3, 200 / 3),
    "gazebench_hop": ("Hop D2 C1 6", 125 / 3, 125 / 3),
    "gazebench_read": ("A2 3, D1 0, D2 5", 37.5, 37.5),
    "gazebench_count": ("Count 4", 25.0, 25.0),
    "gazebench_string": ("772", 100 / 3, 100 / 3),
    "gazebench_absent": ("_", 50.0, 50.0),
    "gazebench_video": ("Hop C3 H1 1", 50.0, 50.0),
    "gazebench_stream": ("F2 4, G4 9", 50.0, 50.0),
}
"""Benchmark → a constant answer, and what it scores on these rows under `cambrian` and `official`, by hand."""
