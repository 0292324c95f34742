"""Every declaration, on rows of its real schema: an oracle reaches the maximum, an empty model 0, a constant one what
was computed by hand; prompts are those of the protocols."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cambrian_gaze.evaluation.benchmarks import BENCHMARKS, PROTOCOLS, SUITES, find, protocols
from cambrian_gaze.evaluation.benchmarks.declare import Picture, VideoRef
from cambrian_gaze.evaluation.benchmarks.rows import BenchmarkRows
from cambrian_gaze.evaluation.tables.columns import ScoreColumn, score_column
from tests.evaluation._fixtures import CONSTANT

CASES = [(name, protocol) for name in BENCHMARKS for protocol in PROTOCOLS]


def column(root: Path, name: str, protocol: str, model: Any) -> ScoreColumn:
    """The column of a model: a function of the target."""
    benchmark = BENCHMARKS[name]
    lines = []
    for number, row in enumerate(BenchmarkRows(benchmark, root)):
        if benchmark.keep is None or benchmark.keep(row):
            target = benchmark.target(row, protocol)
            group = str(number) if benchmark.group is None else benchmark.group(row)
            lines.append({"group": group, "stratum": benchmark.stratum(row), "target": target, "answer": model(target)})
    return score_column(benchmark, protocol, lines)


def oracle(target: dict[str, Any]) -> str:
    gold = target["answer"]
    return gold if isinstance(gold, str) else Counter(gold).most_common(1)[0][0]


@pytest.mark.parametrize(("name", "protocol"), CASES)
def test_oracle_empty_and_constant(name: str, protocol: str, data_root: Path) -> None:
    perfect = column(data_root, name, protocol, oracle)
    assert perfect.value == pytest.approx(perfect.maximum)
    assert perfect.interval() == pytest.approx((perfect.maximum, perfect.maximum))
    assert perfect.undecided == perfect.missing == perfect.empty == 0
    empty = column(data_root, name, protocol, lambda target: " ")
    assert (empty.value, empty.empty) == (0, empty.samples)
    silent = column(data_root, name, protocol, lambda target: None)
    assert (silent.value, silent.missing) == (0, silent.samples)
    answer, *expected = CONSTANT[name]
    assert column(data_root, name, protocol, lambda target: answer).value == pytest.approx(
        expected[PROTOCOLS.index(protocol)]
    )


@pytest.mark.parametrize("name", BENCHMARKS)
def test_fields_are_those_of_the_rows(name: str, data_root: Path) -> None:
    rows = BenchmarkRows(BENCHMARKS[name], data_root)
    assert set(BENCHMARKS[name].fields) <= rows.columns
    assert 3 <= len(rows) <= 20 and rows.revision == "local"


def asked(root: Path, name: str, protocol: str, number: int = 0) -> str:
    """The message of a row, its media as placeholders."""
    parts = BENCHMARKS[name].ask(BenchmarkRows(BENCHMARKS[name], root)[number], protocol)
    marks = {Picture: "<image>", VideoRef: "<video>"}
    return "".join(part if isinstance(part, str) else marks[type(part)] for part in parts)


L = "\nAnswer with the option's letter from the given choices directly."
W = "\nAnswer the question using a single word or phrase."
LONG = "<video>\nWhen?\nA. one\nB. two\nC. three"
NEXT = "<video>\nwhat did the man do" + "".join(f"\n{letter}. {n} things" for n, letter in enumerate("ABCDE"))
MOVES = "<video>\nWhat is he doing?\nA. sitting\nB. running"


@pytest.mark.parametrize(
    ("name", "number", "cambrian", "official"),
    [
        ("mme", 0, "<image>\nIs there a cat? Please answer yes or no." + W, "<image>\nIs there a cat?" + W),
        ("mmbench_en", 0, "<image>\nWhat is shown? Options:\nA. a red boat\nB. a green tree\nC. snow" + L, None),
        (
            "mmbench_cn",
            2,
            "<image>\nA hint.\nWhat is shown? Options:\nA. a red boat\nB. a green tree\n请直接回答选项字母。",
            None,
        ),
        ("mmvp", 0, "<image>\nIs the door open? Options:\nA. Open\nB. Shut" + L, None),
        ("realworldqa", 2, "<image>\nIs it open?", None),
        ("ade", 0, "<image>\nWhich is nearer? Select from the following choices.\n(A) x\n(B) y" + L, None),
        ("gqa", 0, "<image>\nIs it?" + W, None),
        (
            "sqa_i",
            1,
            "<image>\nLook. Which is a solid?\nA. rock\nB. water\nPlease answer directly with only the letter "
            "of the correct option and nothing else.",
            None,
        ),
        (
            "mmmu_val",
            3,
            "<image>\n and : which? Options:\nA. 3 m\nB. Newton's law" + L,
            "<image> and <image>: which? Options:\nA. 3 m\nB. Newton's law" + L,
        ),
        ("mmmu_val", 2, "<image>\n How many?" + W, "<image> How many?" + W),
        (
            "mathvista",
            0,
            "<image>\nQuestion 1?\nFirst show your reasoning process and then give the final answer.",
            None,
        ),
        ("mathvista", 2, "<image>\nQuestion 3?" + W, None),
        ("chartqa", 0, "<image>\nHow much?\nAnswer the question using a single number or phrase.", None),
        ("ocrbench", 0, "<image>\nWhat is written?\nGive the short answer directly.", "<image>\nWhat is written?"),
        ("textvqa", 0, "<image>\nWhat brand?\nReference OCR tokens:" + W, "<image>\nWhat brand?" + W),
        ("textvqa", 2, "<image>\nWhat brand?\nReference OCR tokens: NOKIA, 3310" + W, "<image>\nWhat brand?" + W),
        (
            "videomme",
            0,
            "<video>\nWhat?\nA. one\nB. two\nC. three\nD. four" + L,
            "<video>\nSelect the best answer to the following multiple-choice question based on the video and the "
            "subtitles. Respond with only the letter (A, B, C, or D) of the correct option.\nWhat?\nA. one\nB. two\n"
            "C. three\nD. four\n" + L,
        ),
        (
            "mlvu",
            0,
            "<video>\nHow many?\n(A) 1\n(B) 2\n(C) 3\n(D) 4" + L,
            "<video>\nHow many?\n(A) 1\n(B) 2\n(C) 3\n(D) 4\nOnly give the best option.\nBest option: (",
        ),
        ("egoschema", 0, "<video>\nWhat does c do?\nA. one\nB. two\nC. three\nD. four\nE. five" + L, None),
        ("longvideobench", 0, "<video>\nWhen?\nA. one\nB. two\nC. three" + L, LONG + L + "\n"),
        ("nextqa", 0, NEXT + L, NEXT),
        ("tempcompass", 1, MOVES + "\nPlease directly give the best option:", None),
        ("tempcompass", 2, "<video>\nIs he running?\nPlease answer yes or no:", None),
        ("tempcompass_captioning", 0, "<video>\nGenerated Caption:", None),
        (
            "mvbench",
            0,
            "<video>\nWhat?\nA. one\nB. two\nC. three" + L,
            "<video>\nQuestion:What?\nOption:\n(A) one\n(B) two\n(C) three\nOnly give the best option.\n",
        ),
        ("perceptiontest", 0, "<video>\nWhich?\nA. one\nB. two\nC. three" + L, None),
        (
            "vsibench",
            3,
            "<video>\nThese are frames of a video.\nWhich?\nPlease answer the question using a single word or phrase.",
            None,
        ),
    ],
)
def test_prompts(name: str, number: int, cambrian: str, official: str | None, data_root: Path) -> None:
    assert asked(data_root, name, "cambrian", number) == cambrian
    assert asked(data_root, name, "official", number) == (cambrian if official is None else official)


def test_corrected_labels_of_mmvp_are_official_only(data_root: Path) -> None:
    benchmark = BENCHMARKS["mmvp"]
    row = next(row for row in BenchmarkRows(benchmark, data_root) if row["Index"] == 99)
    assert [benchmark.target(row, protocol)["answer"] for protocol in PROTOCOLS] == ["A", "B"]


def test_generation_lengths() -> None:
    short = {one.name: one.max_new_tokens for one in BENCHMARKS.values() if one.max_new_tokens != 512}
    assert short == {"mme": 32, "gqa": 128, "chartqa": 128, "mmbench_cn": 128}


def test_names() -> None:
    assert [one.name for one in find(["mmvp", "image", "gqa"])] == [
        "mmvp",
        *(n for n in SUITES["image"] if n != "mmvp"),
    ]
    with pytest.raises(ValueError, match="did you mean 'chartqa'"):
        find(["chartqua"])
    assert protocols("both") == PROTOCOLS and protocols("official") == ("official",)
    with pytest.raises(ValueError, match="unknown protocol"):
        protocols("all")


def test_mme_golden_value() -> None:
    """One picture with both questions right and one with one right: 100·(3/4 + 1/2) in its category."""
    lines = [
        {"group": group, "stratum": "color", "target": {"answer": "Yes"}, "answer": answer}
        for group, answer in (("1", "Yes"), ("1", "yes"), ("2", "yes."), ("2", "No"))
    ]
    assert score_column(BENCHMARKS["mme"], "cambrian", lines).value == 125.0
