"""Image columns of the paper's Table 1 with options: MMBench, MMVP, RealWorldQA, CV-Bench, ScienceQA and MMMU.

Prompts and rules of the protocol `cambrian` are the parent's; `docs/evaluation.md` says where `official` differs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

from cambrian_gaze.evaluation.benchmarks.declare import (
    ANY,
    IMAGE,
    LETTER,
    LIST,
    NUMBER,
    TEXT,
    WORD,
    Benchmark,
    BenchmarkSource,
    Part,
    Row,
    Score,
    absent,
    both,
    letter,
    lettered,
    moved,
    option_lines,
    picture,
    with_picture,
)
from cambrian_gaze.evaluation.scorers import choices, mmmu

LETTER_CN = "\n请直接回答选项字母。"
SCIENCE = "\nPlease answer directly with only the letter of the correct option and nothing else."
MMVP_CORRECTED = {99: "B", 100: "A", 279: "B", 280: "A"}
"""Answers that were exchanged in two pairs of MMVP, by Index."""


def _mmbench_options(row: Row) -> dict[str, str]:
    return {letter: str(row[letter]) for letter in "ABCD" if not absent(row[letter])}


def _mmbench(language: str, suffix: str, score: Callable[..., Score], **more: Any) -> Benchmark:
    """`suffix` ends the question; `score` is that of the protocol `cambrian`."""

    former = BenchmarkSource(f"lmms-lab/MMBench_{language}", "dev")

    def ask(row: Row, protocol: str) -> list[Part]:
        hint = "" if absent(row["hint"]) else f"{row['hint']}\n"
        return with_picture(row, hint + row["question"] + " Options:" + option_lines(_mmbench_options(row)) + suffix)

    return Benchmark(
        name=f"mmbench_{language.lower()}",
        title=f"MMBench-{language}",
        source=BenchmarkSource("lmms-lab-encoder/MMBench", "dev", language.lower(), formerly=(former,)),
        fields={"index": NUMBER, "question": TEXT, "hint": ANY, "answer": TEXT, "image": IMAGE}
        | dict.fromkeys("ABCD", ANY),
        rows=4329,
        samples=4329,
        identity=lambda row, number: str(row["index"]),
        group=lambda row: str(int(row["index"]) % 1_000_000),
        figures=("all",),
        ask=ask,
        target=lambda row, protocol: {"answer": row["answer"], "options": _mmbench_options(row)},
        score={"cambrian": score, "official": choices.official_option},
        **more,
    )


def _mmvp_options(row: Row) -> dict[str, str]:
    first, second = row["Options"].split("(b)", 1)
    return lettered([first.replace("(a)", "").strip(), second.strip()])


def _mmvp_target(row: Row, protocol: str) -> dict[str, Any]:
    answer = row["Correct Answer"].strip()[1].upper()
    if protocol == "official":
        answer = MMVP_CORRECTED.get(row["Index"], answer)
    return {"answer": answer, "options": _mmvp_options(row)}


def _mmvp(row: Row, protocol: str) -> list[Part]:
    row = {**row, "image": {"bytes": None, "path": f"MMVP Images/{row['Index']}.jpg"}}
    return with_picture(row, row["Question"] + " Options:" + option_lines(_mmvp_options(row)) + LETTER)


def _science(row: Row, protocol: str) -> list[Part]:
    hint = "" if absent(row["hint"]) else row["hint"] + " "
    return with_picture(row, hint + row["question"] + option_lines(lettered(row["choices"])) + SCIENCE)


def _mmmu_options(row: Row) -> dict[str, str]:
    return lettered([str(option) for option in ast.literal_eval(row["options"])])


def _mmmu(row: Row, protocol: str) -> list[Part]:
    choice = row["question_type"] == "multiple-choice"
    text = row["question"] + (" Options:" + option_lines(_mmmu_options(row)) + LETTER if choice else WORD)
    if protocol == "cambrian":
        # The parent strips the prompt, not the question: what stood after a mark at its head keeps its blank.
        return with_picture(row, re.sub(r"<image \d+>", "", text).rstrip(), "image_1")
    shown = [n for n in range(1, 8) if row[f"image_{n}"] is not None]
    pieces = re.split(r"<image (\d+)>", text)
    named = {int(number) for number in pieces[1::2]}
    parts: list[Part] = [picture(row, f"image_{n}") for n in shown if n not in named]
    for place, piece in enumerate(pieces):
        if place % 2:
            if int(piece) in shown:
                parts.append(picture(row, f"image_{piece}"))
        elif piece:
            parts.append(piece)
    return parts


def _mmmu_target(row: Row, protocol: str) -> dict[str, Any]:
    if row["question_type"] == "multiple-choice":
        return {"answer": row["answer"], "options": _mmmu_options(row)}
    truth = row["answer"]
    if protocol == "cambrian":
        return {"answer": truth, "options": {}}  # a list of answers is compared as it is spelt
    several = ast.literal_eval(truth) if truth.startswith("[") else [truth]
    return {"answer": [str(one) for one in several], "options": {}}


def _cv_bench(name: str, title: str, config: str, origin: str, rows: int) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        source=BenchmarkSource("nyu-visionx/CV-Bench", "test", config),
        fields={"idx": NUMBER, "image": IMAGE, "prompt": TEXT, "choices": LIST, "answer": TEXT, "source": TEXT},
        rows=rows,
        samples=None,
        keep=lambda row: row["source"] == origin,
        identity=lambda row, number: str(row["idx"]),
        ask=lambda row, protocol: with_picture(row, row["prompt"] + LETTER),
        target=lambda row, protocol: {"answer": row["answer"].strip("()"), "options": lettered(row["choices"])},
        score=both(choices.cambrian_letter),
    )


MMBENCH_EN = _mmbench("EN", LETTER, choices.cambrian_letter)

MMBENCH_CN = _mmbench("CN", LETTER_CN, choices.cambrian_first_token, max_new_tokens=128)

MMVP = Benchmark(
    name="mmvp",
    title="MMVP",
    source=BenchmarkSource("MMVP/MMVP", "train", data_files="Questions.csv"),
    fields={"Index": NUMBER, "Question": TEXT, "Options": TEXT, "Correct Answer": TEXT},
    rows=300,
    samples=300,
    identity=lambda row, number: str(row["Index"]),
    spellings={"lndex": "Index"},
    group=lambda row: str((row["Index"] - 1) // 2),
    group_size=2,
    figures=("all",),
    ask=_mmvp,
    target=_mmvp_target,
    score=both(choices.cambrian_letter_or_text),
)

REALWORLDQA = Benchmark(
    name="realworldqa",
    title="RealWorldQA",
    source=moved("lmms-lab/RealWorldQA", "lmms-lab-encoder/RealWorldQA", "test"),
    fields={"image": IMAGE, "question": TEXT, "answer": TEXT},
    rows=765,
    samples=765,
    ask=lambda row, protocol: with_picture(row, row["question"]),
    target=lambda row, protocol: {
        "answer": row["answer"],
        "options": choices.options_in(row["question"]) if row["answer"] in tuple("ABCDEF") else {},
    },
    score={"cambrian": choices.cambrian_word, "official": choices.official_word},
)

ADE = _cv_bench("ade", "CV-Bench ADE", "2D", "ADE20K", 1438)

OMNI = _cv_bench("omni", "CV-Bench Omni", "3D", "Omni3D", 1200)

SQA = Benchmark(
    name="sqa_i",
    title="ScienceQA-I",
    source=BenchmarkSource("derek-thomas/ScienceQA", "test"),
    fields={"image": ANY, "question": TEXT, "choices": LIST, "answer": NUMBER, "hint": ANY},
    rows=4241,
    samples=2017,
    keep=lambda row: row["image"] is not None,
    ask=_science,
    target=lambda row, protocol: {"answer": letter(row["answer"]), "options": lettered(row["choices"])},
    score={"cambrian": choices.cambrian_science, "official": choices.official_science},
)

MMMU = Benchmark(
    name="mmmu_val",
    title="MMMU-val",
    source=moved("lmms-lab/MMMU", "lmms-lab-encoder/MMMU", "validation"),
    fields={"id": TEXT, "question": TEXT, "options": TEXT, "answer": TEXT, "question_type": TEXT, "image_1": IMAGE}
    | {f"image_{n}": ANY for n in range(2, 8)},
    rows=900,
    samples=900,
    identity=lambda row, number: row["id"],
    ask=_mmmu,
    target=_mmmu_target,
    score={"cambrian": mmmu.cambrian_mmmu, "official": mmmu.official_mmmu},
)
