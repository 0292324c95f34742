"""Numbers within a tolerance."""

import pytest

from cambrian_gaze.evaluation.scorers import numbers


@pytest.mark.parametrize(
    ("given", "truth", "cambrian", "official"),
    [
        ("50%", "0.5", 0, 1),
        ("0.0", "0", 1, 0),
        ("1,000", "1000", 0, 0),
        ("104.9", "100", 1, 1),
        ("105.1", "100", 0, 0),
        ("-95", "-100", 1, 1),
        ("Yes.", "yes", 0, 0),
        ("14.", "14", 1, 1),
        ("Yes", "yes", 1, 1),
        ("12%", "12%", 1, 1),
        ("12", "12%", 0, 0),
        ("nan", "nan", 0, 0),
        ("inf", "5", 0, 0),
        ("%", "5", 0, 0),
        ("", "5", 0, 0),
    ],
)
def test_relaxed(given: str, truth: str, cambrian: float, official: float) -> None:
    """Parent: `chartqa_test.py`, which keeps a final full stop; official: `relaxed_correctness` of lmms-eval 0.7.3."""
    assert numbers.cambrian_relaxed(given, {"answer": truth}) == cambrian
    assert numbers.official_relaxed(given, {"answer": truth}) == official


@pytest.mark.parametrize(
    ("given", "truth", "expected"),
    [(9, 10, 0.9), (14, 10, 0.3), (5, 10, 0.1), (10, 10, 1), (30, 10, 0), (0, 0, 1), (1, 0, 0)],
)
def test_mean_relative_accuracy(given: float, truth: float, expected: float) -> None:
    assert numbers.mean_relative_accuracy(given, truth) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", 3), ("three", 3), ("Three boxes.", 3), ("twenty-one", 21), ("three hundred and twenty-one", 321),
     ("two thousand five", 2005), ("one apple, room 2", 1), ("about 2.5 m", 2.5), ("-4", -4), ("many", None),
     ("", None), ("someone", None)],
)  # fmt: skip
def test_first_number(text: str, expected: float | None) -> None:
    """`extract_number` of lmms-eval 0.7.3, `tasks/vsibench/utils.py`."""
    assert numbers.first_number(text) == expected
