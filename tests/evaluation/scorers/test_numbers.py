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
        ("Yes.", "yes", 1, 0),
        ("Yes", "yes", 1, 1),
        ("12%", "12%", 1, 1),
        ("12", "12%", 0, 0),
        ("nan", "nan", 1, 1),
        ("inf", "5", 0, 0),
        ("%", "5", 0, 0),
        ("", "5", 0, 0),
    ],
)
def test_relaxed(given: str, truth: str, cambrian: float, official: float) -> None:
    assert numbers.cambrian_relaxed(given, {"answer": truth}) == cambrian
    assert numbers.official_relaxed(given, {"answer": truth}) == official


@pytest.mark.parametrize(
    ("given", "truth", "expected"),
    [(9, 10, 0.9), (14, 10, 0.3), (5, 10, 0.1), (10, 10, 1), (30, 10, 0), (0, 0, 1), (1, 0, 0)],
)
def test_mean_relative_accuracy(given: float, truth: float, expected: float) -> None:
    assert numbers.mean_relative_accuracy(given, truth) == pytest.approx(expected)
