"""Scorers of lmms-eval 0.7.3, quirks kept. Each function was held against its source on random answers; here are the
cases that tell it from others."""

import pytest

from cambrian_gaze.evaluation.scorers import upstream

B = {"answer": "B", "options": {"A": "one", "B": "two", "C": "three", "D": "four", "E": "five red things"}}
NUMBER = {"answer": "10", "options": {}}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("B", "B"), ("(B) two", "B"), ("B. two", "B"), ("A or B", "A"), ("I first thought (A), but it is B", "B"),
     ("The answer is B", "B"), ("The answer is B because (C) is not", "C"), ("The best answer is: (B).", "B"),
     ("Bananas", "B"), ("The answer is B. An apple", "A"), ("two", None), ("", None)],
)  # fmt: skip
def test_extracted_letter(answer: str, letter: str | None) -> None:
    """`_task_utils/mcq_extract.py`: Video-MME and MLVU. The weightiest way of naming wins, of equals the last."""
    assert upstream.extract_letter(answer, "ABCD") == letter
    assert upstream.extracted_letter(answer, B) == (None if letter is None else float(letter == "B"))


@pytest.mark.parametrize(
    ("answer", "long", "ego", "next_", "mv"),
    [
        ("B", 1, 1, 1, 1),
        ("(B) two", 1, 1, 1, 1),
        ("B. two", 1, 1, 1, 1),
        ("The best answer is: B", 1, 1, 1, 1),
        ("Answer: C", 0, 0, 0, 0),  # LongVideoBench finds the A of "Answer"
        ("(A) no, (B)", 0, 0, 1, 0),
        ("B is better than A here", 1, 1, 0, 1),
        ("a dog, so B", 1, 1, 1, 0),  # MVBench takes the article for an option
        ("b", None, None, None, 1),
        ("Bananas", 1, None, None, None),
        ("there were two of them in it", None, None, 1, None),
        ("", None, None, None, None),
    ],
)
def test_letters(answer: str, long: float, ego: float, next_: float, mv: float) -> None:
    """`longvideobench/utils.py`, `egoschema/utils.py`, `nextqa/utils.py`, `mvbench/utils.py`."""
    assert upstream.longvideobench(answer, B) == long
    assert upstream.egoschema(answer, B) == ego
    assert upstream.nextqa(answer, B) == next_
    assert upstream.mvbench(answer, B) == mv


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [("B. two", B, 1), ("b", B, 1), ("It is B", B, 0), ("9 chairs", NUMBER, 0.9), ("There are nine", NUMBER, 0.9),
     ("14", NUMBER, 0.3), ("many", NUMBER, None)],
)  # fmt: skip
def test_vsi_bench(answer: str, target: dict, expected: float | None) -> None:
    """`vsibench/utils.py`."""
    assert upstream.vsibench(answer, target) == (None if expected is None else pytest.approx(expected))


def test_a_truth_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="no number"):
        upstream.vsibench("3", {"answer": "many", "options": {}})
