"""MMMU: choices and open answers; what cannot be told is undecided, never drawn."""

import pytest

from cambrian_gaze.evaluation.scorers import mmmu

OPTIONS = {"A": "3 m", "B": "Newton's law", "C": "none of these"}


@pytest.mark.parametrize(
    ("answer", "cambrian", "official"),
    [
        ("B", 1, 1),
        ("(B)", 1, 1),
        ("B. Newton's law", 1, 1),
        ("I first thought (A), but it is (B).", 0, 1),
        ("Of all that was offered it must be newton's law", 0, 1),
        ("Newton's law", 0, None),
        ("no idea", 0, None),
        ("A", 0, 0),
    ],
)
def test_choices(answer: str, cambrian: float, official: float | None) -> None:
    target = {"answer": "B", "options": OPTIONS}
    assert mmmu.cambrian_mmmu(answer, target) == cambrian
    assert mmmu.official_mmmu(answer, target) == official


@pytest.mark.parametrize(
    ("answer", "truth", "cambrian", "official"),
    [
        ("42", ["42"], 1, 1),
        ("43", ["42"], 1, 0),
        ("The answer is 42.", ["42"], 1, 1),
        ("x = 1,042.00", ["1042"], 0, 1),
        ("It is 3. So the total is 42", ["42"], 0, 1),
        ("a transformer", ["transformer", "converter"], 0, 1),
        ("3.429", ["24/7", "3.429"], 0, 1),
        ("['24/7', '3.429']", ["24/7", "3.429"], 1, 1),
        ("7", ["42"], 0, 0),
        ("a", ["b"], 0, 0),
    ],
)
def test_open(answer: str, truth: list[str], cambrian: float, official: float) -> None:
    """The parent's `mmmu_test.py` compares with the answer's text, a list's brackets and quotes included."""
    spelt = truth[0] if len(truth) == 1 else str(truth)
    assert mmmu.cambrian_mmmu(answer, {"answer": spelt, "options": {}}) == cambrian
    assert mmmu.official_mmmu(answer, {"answer": truth, "options": {}}) == official
