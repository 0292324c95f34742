"""Values of an answer, by name or by place."""

import pytest

from cambrian_gaze.evaluation.scorers.gazebench import right_values, score_values


def target(*values, given=""):
    return {"given": given, "values": [{"name": name, "value": value} for name, value in values]}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Read B3 7 A1 4", [True, True]),
        ("b3: 7, a1: 5", [True, False]),
        ("A1 4", [False, True]),
        ("B3 1 B3 7 A1 4", [False, True]),  # the first occurrence counts
        ("", [False, False]),
    ],
)
def test_named_values(answer, right):
    assert right_values(answer, target(("B3", "7"), ("A1", "4"))) == right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Hop B3 D2 C1 8", [True, True, True]),
        ("D2 C1 8", [True, True, True]),
        ("Hop B3 C1 D2 8", [False, False, True]),
        ("Hop B3 D2", [True, False, False]),
    ],
)
def test_values_by_place(answer, right):
    assert right_values(answer, target(("", "D2"), ("", "C1"), ("", "8"), given="B3")) == right


def test_digits_may_stand_together():
    assert right_values("Row 4729", target(("", "4"), ("", "7"), ("", "2"), ("", "9"))) == [True] * 4
    assert score_values("473", target(("", "4"), ("", "7"), ("", "2"), ("", "9"))) == 0.5
