"""Video benchmarks beyond the six of the published table: MVBench, PerceptionTest, VSI-Bench, and the task of
TempCompass that wants a judge model."""

from __future__ import annotations

from typing import Any

from cambrian_gaze.evaluation.benchmarks.declare import (
    ANY,
    LETTER,
    LIST,
    NUMBER,
    TEXT,
    Benchmark,
    BenchmarkSource,
    Part,
    Row,
    both,
    film,
    letter,
    lettered,
    moved,
    option_lines,
    stripped,
)
from cambrian_gaze.evaluation.scorers import tempcompass, upstream, video
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


def _mvbench(row: Row, protocol: str) -> list[Part]:
    clip = {"fps": 3.0} if row["config"] == "episodic_reasoning" else {}
    options = lettered(row["candidates"])
    if protocol == "cambrian":
        text = row["question"] + option_lines(options) + LETTER
    else:
        text = f"Question:{row['question']}\nOption:{option_lines(options, '({}) {}')}\nOnly give the best option.\n"
    return film(f"{MVBENCH_FOLDERS[row['config']]}/{row['video']}", text, **clip)


def _mvbench_target(row: Row, protocol: str) -> dict[str, Any]:
    options = lettered(row["candidates"])
    return {"answer": next(letter for letter, text in options.items() if text == row["answer"]), "options": options}


def _vsi(row: Row, protocol: str) -> list[Part]:
    text = "These are frames of a video.\n" + row["question"]
    if row["options"]:
        text += "\nOptions:\n" + "\n".join(row["options"]) + LETTER
    else:
        text += "\nPlease answer the question using a single word or phrase."
    return film(f"{row['dataset']}/{row['scene_name']}.mp4", text)


MVBENCH = Benchmark(
    name="mvbench",
    title="MVBench",
    source=BenchmarkSource("OpenGVLab/MVBench", "train", tuple(MVBENCH_FOLDERS), revision="video"),
    fields={"video": TEXT, "question": TEXT, "candidates": LIST, "answer": TEXT},
    rows=4000,
    samples=4000,
    group=lambda row: f"{row['config']} {row['video']}",
    stratum=lambda row: row["config"],
    ask=_mvbench,
    target=_mvbench_target,
    score={"cambrian": video.named_option, "official": upstream.mvbench},
    video=True,
)

PERCEPTIONTEST = Benchmark(
    name="perceptiontest",
    title="PerceptionTest (val)",
    source=moved("lmms-lab/PerceptionTest_Val", "lmms-eval/PerceptionTest_Val", "validation", "mc_question_val"),
    fields={"video_name": TEXT, "question_id": ANY, "question": TEXT, "options": LIST, "answer_id": ANY},
    rows=19140,
    samples=19140,
    group=lambda row: row["video_name"],
    ask=lambda row, protocol: film(
        f"videos/{row['video_name']}.mp4", row["question"] + option_lines(lettered(row["options"])) + LETTER
    ),
    target=lambda row, protocol: {"answer": letter(int(row["answer_id"])), "options": lettered(row["options"])},
    score=both(video.lone_letter),
    video=True,
)

VSIBENCH = Benchmark(
    name="vsibench",
    title="VSI-Bench",
    source=BenchmarkSource(
        "nyu-visionx/VSI-Bench", "test", "full", formerly=(BenchmarkSource("nyu-visionx/VSI-Bench", "test"),)
    ),  # copies of before the debiased questions came have no configurations
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
        "options": stripped(row["options"]) if row["options"] else {},
    },
    score={"cambrian": video.vsi, "official": upstream.vsibench},
    video=True,
)  # fmt: skip

TEMPCOMPASS_CAPTIONING = Benchmark(
    name="tempcompass_captioning",
    title="TempCompass captioning (no judge)",
    source=moved("lmms-lab/TempCompass", "lmms-eval/TempCompass", "test", "captioning"),
    fields={"video_id": TEXT, "question": TEXT, "mc_question": TEXT, "mc_answer": TEXT, "dim": TEXT},
    rows=2004,
    samples=2004,
    group=lambda row: row["video_id"],
    ask=lambda row, protocol: film(f"videos/{row['video_id']}.mp4", row["question"]),
    target=lambda row, protocol: {
        "answer": row["mc_answer"],
        "letter": row["mc_answer"].strip()[:1],
        "options": options_in(row["mc_question"]),
    },
    score=both(tempcompass.captioning),
    video=True,
    judge="which option a caption describes",
)

EXTRA_VIDEO_BENCHMARKS = (MVBENCH, PERCEPTIONTEST, VSIBENCH, TEMPCOMPASS_CAPTIONING)
"""What the published table does not average."""
