"""Seven video benchmarks, all multiple choice but for the numbers of VSI-Bench. Both protocols ask and score alike.

Videos are files in a local copy of the dataset's repository: most repositories pack them in archives, which must be
unpacked there first (`eval/README.md` says where to).
"""

from __future__ import annotations

from typing import Any

from cambrian_gaze.evaluation.benchmarks.declare import (
    ANY,
    LETTER,
    LIST,
    NUMBER,
    TEXT,
    Benchmark,
    Film,
    Part,
    Row,
    Source,
    both,
    letter,
    lettered,
    option_lines,
)
from cambrian_gaze.evaluation.scorers import video
from cambrian_gaze.evaluation.scorers.choices import options_in

MVBENCH_FOLDERS = {
    "action_sequence": "star/Charades_segment",
    "action_prediction": "star/Charades_segment",
    "action_antonym": "ssv2_video_mp4",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_segment",
    "object_shuffle": "perception/videos",
    "moving_direction": "clevrer/video_validation",
    "action_localization": "sta/sta_video_segment",
    "scene_transition": "scene_qa/video",
    "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "state_change": "perception/videos",
    "fine_grained_pose": "nturgbd_convert",
    "character_order": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "counterfactual_inference": "clevrer/video_validation",
}
"""The twenty tasks of MVBench, and where the videos of each lie on its branch `video`."""
VSI_DIRECTIONS = {f"object_rel_direction_{level}": 1 / 3 for level in ("easy", "medium", "hard")}
"""Three levels of one VSI-Bench task: together they weigh as much as each other task."""


def _film(path: str, text: str, **clip: Any) -> list[Part]:
    return [Film(path, clip), "\n" + text]


def _stripped(options: list[str]) -> dict[str, str]:
    """Options written "A. …" by letter."""
    return {letter: text.split(".", 1)[-1].strip() for letter, text in lettered(options).items()}


def _mvbench(row: Row, protocol: str) -> list[Part]:
    clip = {"fps": 3.0} if row["config"] == "episodic_reasoning" else {}
    text = row["question"] + option_lines(lettered(row["candidates"])) + LETTER
    return _film(f"{MVBENCH_FOLDERS[row['config']]}/{row['video']}", text, **clip)


def _mvbench_target(row: Row, protocol: str) -> dict[str, Any]:
    options = lettered(row["candidates"])
    return {"answer": next(letter for letter, text in options.items() if text == row["answer"]), "options": options}


def _longvideo_options(row: Row) -> dict[str, str]:
    return lettered([row[f"option{n}"] for n in range(5) if row[f"option{n}"] not in (None, "N/A")])


def _vsi(row: Row, protocol: str) -> list[Part]:
    text = "These are frames of a video.\n" + row["question"]
    if row["options"]:
        text += "\nOptions:\n" + "\n".join(row["options"]) + LETTER
    else:
        text += "\nPlease answer the question using a single word or phrase."
    return _film(f"{row['dataset']}/{row['scene_name']}.mp4", text)


VIDEOMME = Benchmark(
    name="videomme",
    title="Video-MME",
    source=Source("lmms-lab/Video-MME", "test"),
    fields={"videoID": TEXT, "question_id": TEXT, "question": TEXT, "options": LIST, "answer": TEXT},
    rows=2700,
    samples=2700,
    identity=lambda row, number: row["question_id"],
    group=lambda row: row["videoID"],
    ask=lambda row, protocol: _film(
        f"data/{row['videoID']}.mp4", row["question"] + "\n" + "\n".join(row["options"]) + LETTER
    ),
    target=lambda row, protocol: {"answer": row["answer"], "options": _stripped(row["options"])},
    score=both(video.first_letter),
    video=True,
)

EGOSCHEMA = Benchmark(
    name="egoschema",
    title="EgoSchema (subset)",
    source=Source("lmms-lab/egoschema", "test", "Subset"),
    fields={"question_idx": ANY, "question": TEXT, "video_idx": TEXT, "option": LIST, "answer": TEXT},
    rows=500,
    samples=500,
    identity=lambda row, number: row["video_idx"],
    ask=lambda row, protocol: _film(
        f"videos/{row['video_idx']}.mp4", row["question"] + "\n" + "\n".join(row["option"]) + LETTER
    ),
    target=lambda row, protocol: {"answer": letter(int(row["answer"])), "options": _stripped(row["option"])},
    score=both(video.lone_letter),
    video=True,
)

MVBENCH = Benchmark(
    name="mvbench",
    title="MVBench",
    source=Source("OpenGVLab/MVBench", "train", tuple(MVBENCH_FOLDERS), revision="video"),
    fields={"video": TEXT, "question": TEXT, "candidates": LIST, "answer": TEXT},
    rows=4000,
    samples=4000,
    group=lambda row: f"{row['config']} {row['video']}",
    stratum=lambda row: row["config"],
    ask=_mvbench,
    target=_mvbench_target,
    score=both(video.named_option),
    video=True,
)

LONGVIDEOBENCH = Benchmark(
    name="longvideobench",
    title="LongVideoBench (val)",
    source=Source("longvideobench/LongVideoBench", "validation"),
    fields={"id": TEXT, "video_path": TEXT, "question": TEXT, "correct_choice": NUMBER}
    | {f"option{n}": ANY for n in range(5)},
    rows=1337,
    samples=1337,
    identity=lambda row, number: row["id"],
    group=lambda row: row["video_path"],
    ask=lambda row, protocol: _film(
        f"videos/{row['video_path']}", row["question"] + option_lines(_longvideo_options(row)) + LETTER
    ),
    target=lambda row, protocol: {"answer": letter(row["correct_choice"]), "options": _longvideo_options(row)},
    score=both(video.first_letter),
    video=True,
)

PERCEPTIONTEST = Benchmark(
    name="perceptiontest",
    title="PerceptionTest (val)",
    source=Source("lmms-lab/PerceptionTest_Val", "validation", "mc_question_val"),
    fields={"video_name": TEXT, "question_id": ANY, "question": TEXT, "options": LIST, "answer_id": ANY},
    rows=19140,
    samples=19140,
    group=lambda row: row["video_name"],
    ask=lambda row, protocol: _film(
        f"videos/{row['video_name']}.mp4", row["question"] + option_lines(lettered(row["options"])) + LETTER
    ),
    target=lambda row, protocol: {"answer": letter(int(row["answer_id"])), "options": lettered(row["options"])},
    score=both(video.lone_letter),
    video=True,
)

VSIBENCH = Benchmark(
    name="vsibench",
    title="VSI-Bench",
    source=Source("nyu-visionx/VSI-Bench", "test"),
    fields={
        "id": NUMBER, "dataset": TEXT, "scene_name": TEXT, "question_type": TEXT, "question": TEXT,
        "ground_truth": TEXT, "options": ANY,
    },
    rows=5130,
    samples=5130,
    identity=lambda row, number: str(row["id"]),
    group=lambda row: f"{row['question_type']} {row['dataset']} {row['scene_name']}",
    stratum=lambda row: row["question_type"],
    weights=VSI_DIRECTIONS,
    ask=_vsi,
    target=lambda row, protocol: {
        "answer": row["ground_truth"],
        "options": _stripped(row["options"]) if row["options"] else {},
    },
    score=both(video.vsi),
    video=True,
)  # fmt: skip

MLVU = Benchmark(
    name="mlvu",
    title="MLVU (dev)",
    source=Source("sy1998/MLVU_dev", "test"),
    fields={"video_name": TEXT, "question": TEXT, "answer": TEXT, "task_type": TEXT},
    rows=2174,
    samples=2174,
    group=lambda row: f"{row['task_type']} {row['video_name']}",
    stratum=lambda row: row["task_type"],
    ask=lambda row, protocol: _film(row["video_name"], row["question"] + LETTER),
    target=lambda row, protocol: {"answer": row["answer"], "options": options_in(row["question"])},
    score=both(video.first_letter),
    video=True,
)

VIDEO_BENCHMARKS = (VIDEOMME, EGOSCHEMA, MVBENCH, LONGVIDEOBENCH, PERCEPTIONTEST, VSIBENCH, MLVU)
"""In the order of the video table's columns."""
