"""Image columns of the paper's Table 1 that want short answers: MME, GQA, MathVista, ChartQA, OCRBench and TextVQA.

Prompts and rules of the protocol `cambrian` are the parent's; `docs/evaluation.md` says where `official` differs.
"""

from __future__ import annotations

from typing import Any

from cambrian_gaze.evaluation.benchmarks.declare import (
    ANY,
    IMAGE,
    LIST,
    NUMBER,
    TEXT,
    WORD,
    Benchmark,
    BenchmarkSource,
    Part,
    Row,
    both,
    lettered,
    moved,
    with_picture,
)
from cambrian_gaze.evaluation.scorers import exact, mathvista, numbers, vqa

REASON = "\nFirst show your reasoning process and then give the final answer."
PERCEPTION = frozenset("existence count position color posters celebrity scene landmark artwork OCR".split())
"""Categories of MME-P."""
GQA_NAMES = ("lmms-lab/GQA", "lmms-lab-encoder/GQA")


def _mme(row: Row, protocol: str) -> list[Part]:
    question = row["question"]
    if protocol == "official":
        question = question.replace(" Please answer yes or no.", "").strip()
    return with_picture(row, question + WORD)


def _mathvista(row: Row, protocol: str) -> list[Part]:
    choice = row["question_type"] == "multi_choice"
    return with_picture(row, row["query"] + (REASON if choice else WORD), "decoded_image")


def _mathvista_target(row: Row, protocol: str) -> dict[str, Any]:
    options = lettered(row["choices"]) if row["question_type"] == "multi_choice" else {}
    answer = row["answer"]
    if options:
        answer = next(letter for letter, text in options.items() if text == answer)
    return {"answer": answer, "options": options, "type": row["answer_type"], "precision": row["precision"]}


def _textvqa(row: Row, protocol: str) -> list[Part]:
    tokens = "".join(f"{', ' if place else ' '}{token}" for place, token in enumerate(row["ocr_tokens"]))
    reference = f"\nReference OCR tokens:{tokens}" if protocol == "cambrian" else ""
    return with_picture(row, row["question"] + reference + WORD)


MME = Benchmark(
    name="mme",
    title="MME-P",
    column="mme_p",
    source=moved("lmms-lab/MME", "lmms-lab-encoder/MME", "test"),
    fields={"question_id": TEXT, "image": IMAGE, "question": TEXT, "answer": TEXT, "category": TEXT},
    rows=2374,
    samples=2114,
    keep=lambda row: row["category"] in PERCEPTION,
    identity=lambda row, number: f"{row['question_id']} {row['question']}",
    group=lambda row: f"{row['category']} {row['question_id']}",
    group_size=2,
    stratum=lambda row: row["category"],
    figures=("share", "all"),
    combine="sum",
    ask=_mme,
    target=lambda row, protocol: {"answer": row["answer"]},
    score={"cambrian": exact.cambrian_exact, "official": exact.official_yes_no},
    max_new_tokens=32,
)

GQA = Benchmark(
    name="gqa",
    title="GQA",
    source=moved(*GQA_NAMES, "testdev", "testdev_balanced_instructions"),
    join=("imageId", moved(*GQA_NAMES, "testdev", "testdev_balanced_images"), "id"),
    fields={"id": TEXT, "imageId": TEXT, "image": IMAGE, "question": TEXT, "answer": TEXT},
    rows=12578,
    samples=12578,
    identity=lambda row, number: row["id"],
    group=lambda row: row["imageId"],
    ask=lambda row, protocol: with_picture(row, row["question"] + WORD),
    target=lambda row, protocol: {"answer": row["answer"]},
    score={"cambrian": exact.cambrian_exact, "official": exact.official_exact},
    max_new_tokens=128,
)

MATHVISTA = Benchmark(
    name="mathvista",
    title="MathVista",
    source=BenchmarkSource("AI4Math/MathVista", "testmini"),
    fields={
        "pid": TEXT, "query": TEXT, "decoded_image": IMAGE, "choices": ANY, "answer": TEXT, "question_type": TEXT,
        "answer_type": TEXT, "precision": ANY,
    },
    rows=1000,
    samples=1000,
    identity=lambda row, number: row["pid"],
    ask=_mathvista,
    target=_mathvista_target,
    score={"cambrian": mathvista.cambrian_mathvista, "official": mathvista.official_mathvista},
)  # fmt: skip

CHARTQA = Benchmark(
    name="chartqa",
    title="ChartQA",
    source=moved("lmms-lab/ChartQA", "lmms-lab-encoder/ChartQA", "test"),
    fields={"image": IMAGE, "question": TEXT, "answer": TEXT},
    rows=2500,
    samples=2500,
    ask=lambda row, protocol: with_picture(
        row, row["question"] + "\nAnswer the question using a single number or phrase."
    ),
    target=lambda row, protocol: {"answer": row["answer"]},
    score={"cambrian": numbers.cambrian_relaxed, "official": numbers.official_relaxed},
    max_new_tokens=128,
)

OCRBENCH = Benchmark(
    name="ocrbench",
    title="OCRBench",
    source=BenchmarkSource("echo840/OCRBench", "test"),
    fields={"image": IMAGE, "question": TEXT, "answer": LIST, "dataset": TEXT},
    rows=1000,
    samples=1000,
    ask=lambda row, protocol: with_picture(
        row, row["question"] + ("\nGive the short answer directly." if protocol == "cambrian" else "")
    ),
    target=lambda row, protocol: {"answer": list(row["answer"]), "formula": row["dataset"] == "HME100k"},
    score=both(exact.gold_inside),
)

TEXTVQA = Benchmark(
    name="textvqa",
    title="TextVQA",
    source=moved("lmms-lab/textvqa", "lmms-lab-encoder/textvqa", "validation"),
    fields={
        "question_id": NUMBER, "image_id": TEXT, "image": IMAGE, "question": TEXT, "answers": LIST, "ocr_tokens": LIST,
    },
    rows=5000,
    samples=5000,
    identity=lambda row, number: str(row["question_id"]),
    group=lambda row: row["image_id"],
    ask=_textvqa,
    target=lambda row, protocol: {"answer": list(row["answers"])},
    score=both(vqa.textvqa),
)  # fmt: skip
