"""The six video benchmarks of the published table. Prompts and rules of `official` are those of lmms-eval 0.7.3, less
its random guesses: what cannot be read is undecided.

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

SELECT = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
    "Respond with only the letter (A, B, C, or D) of the correct option.\n"
)
"""What Video-MME's question begins with in lmms-eval, with subtitles or without."""
BEST = "\nOnly give the best option.\nBest option: ("
"""What MLVU's question ends with in lmms-eval."""
TEMPCOMPASS_ENDS = {
    "multi-choice": "\nPlease directly give the best option:",
    "yes_no": "\nPlease answer yes or no:",
    "caption_matching": "\nPlease directly give the best option:",
}
"""The tasks of TempCompass that rules can judge, and what a question of each ends with."""


def _videomme(row: Row, protocol: str) -> list[Part]:
    text = row["question"] + "\n" + "\n".join(row["options"])
    return film(f"data/{row['videoID']}.mp4", text + LETTER if protocol == "cambrian" else f"{SELECT}{text}\n{LETTER}")


def _longvideo(row: Row, protocol: str) -> list[Part]:
    end = "" if protocol == "cambrian" else "\n"
    return film(f"videos/{row['video_path']}", row["question"] + option_lines(_longvideo_options(row)) + LETTER + end)


def _longvideo_options(row: Row) -> dict[str, str]:
    return lettered([row[f"option{n}"] for n in range(5) if row[f"option{n}"] not in (None, "N/A")])


def _nextqa_options(row: Row) -> dict[str, str]:
    return lettered([row[f"a{n}"].strip() for n in range(5)])


def _nextqa(row: Row, protocol: str) -> list[Part]:
    text = row["question"].strip() + option_lines(_nextqa_options(row))
    return film(f"NExTVideo/{row['video']}.mp4", text + (LETTER if protocol == "cambrian" else ""))


def _tempcompass_target(row: Row, protocol: str) -> dict[str, Any]:
    return {"answer": row["answer"], "options": options_in(row["question"]), "question": row["question"]}


VIDEOMME = Benchmark(
    name="videomme",
    title="Video-MME",
    source=moved("lmms-lab/Video-MME", "lmms-eval/Video-MME", "test"),
    fields={"videoID": TEXT, "question_id": TEXT, "question": TEXT, "options": LIST, "answer": TEXT},
    rows=2700,
    samples=2700,
    identity=lambda row, number: row["question_id"],
    group=lambda row: row["videoID"],
    ask=_videomme,
    target=lambda row, protocol: {"answer": row["answer"], "options": stripped(row["options"])},
    score={"cambrian": video.first_letter, "official": upstream.extracted_letter},
    video=True,
)

MLVU = Benchmark(
    name="mlvu",
    title="MLVU (dev)",
    source=BenchmarkSource("sy1998/MLVU_dev", "test"),
    fields={"video_name": TEXT, "question": TEXT, "answer": TEXT, "task_type": TEXT},
    rows=2174,
    samples=2174,
    group=lambda row: f"{row['task_type']} {row['video_name']}",
    stratum=lambda row: row["task_type"],
    ask=lambda row, protocol: film(row["video_name"], row["question"] + (LETTER if protocol == "cambrian" else BEST)),
    target=lambda row, protocol: {"answer": row["answer"], "options": options_in(row["question"])},
    score={"cambrian": video.first_letter, "official": upstream.extracted_letter},
    video=True,
)

EGOSCHEMA = Benchmark(
    name="egoschema",
    title="EgoSchema (subset)",
    source=moved("lmms-lab/egoschema", "lmms-eval/egoschema", "test", "Subset"),
    fields={"question_idx": ANY, "question": TEXT, "video_idx": TEXT, "option": LIST, "answer": TEXT},
    rows=500,
    samples=500,
    identity=lambda row, number: row["video_idx"],
    ask=lambda row, protocol: film(
        f"videos/{row['video_idx']}.mp4", row["question"] + "\n" + "\n".join(row["option"]) + LETTER
    ),
    target=lambda row, protocol: {"answer": letter(int(row["answer"])), "options": stripped(row["option"])},
    score={"cambrian": video.lone_letter, "official": upstream.egoschema},
    video=True,
)

LONGVIDEOBENCH = Benchmark(
    name="longvideobench",
    title="LongVideoBench (val)",
    source=BenchmarkSource("longvideobench/LongVideoBench", "validation"),
    fields={"id": TEXT, "video_path": TEXT, "question": TEXT, "correct_choice": NUMBER}
    | {f"option{n}": ANY for n in range(5)},
    rows=1337,
    samples=1337,
    identity=lambda row, number: row["id"],
    group=lambda row: row["video_path"],
    ask=_longvideo,
    target=lambda row, protocol: {"answer": letter(row["correct_choice"]), "options": _longvideo_options(row)},
    score={"cambrian": video.first_letter, "official": upstream.longvideobench},
    video=True,
)

NEXTQA = Benchmark(
    name="nextqa",
    title="NExT-QA (MC)",
    source=moved("lmms-lab/NExTQA", "lmms-eval/NExTQA", "test", "MC"),
    fields={"video": ANY, "question": TEXT, "answer": NUMBER, "qid": ANY} | {f"a{n}": TEXT for n in range(5)},
    rows=8564,
    samples=8564,
    identity=lambda row, number: f"{row['video']} {row['qid']}",
    group=lambda row: str(row["video"]),
    ask=_nextqa,
    target=lambda row, protocol: {"answer": letter(row["answer"]), "options": _nextqa_options(row)},
    score={"cambrian": video.first_letter, "official": upstream.nextqa},
    video=True,
)

TEMPCOMPASS = Benchmark(
    name="tempcompass",
    title="TempCompass",
    source=moved("lmms-lab/TempCompass", "lmms-eval/TempCompass", "test", tuple(TEMPCOMPASS_ENDS)),
    fields={"video_id": TEXT, "question": TEXT, "answer": TEXT, "dim": TEXT},
    rows=5536,
    samples=5536,
    group=lambda row: f"{row['config']} {row['video_id']}",
    stratum=lambda row: row["config"],
    ask=lambda row, protocol: film(f"videos/{row['video_id']}.mp4", row["question"] + TEMPCOMPASS_ENDS[row["config"]]),
    target=lambda row, protocol: _tempcompass_target(row, protocol) | {"task": row["config"]},
    score=both(tempcompass.by_rule),
    video=True,
)

VIDEO_BENCHMARKS = (VIDEOMME, MLVU, EGOSCHEMA, LONGVIDEOBENCH, NEXTQA, TEMPCOMPASS)
"""In the order of the published table's columns."""
