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


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Count 3 2 2 1", [True, True]),  # the second 2 is a name, the first a value
        ("Count 3 3 2 1", [False, True]),
        ("3: 2", [True, False]),
    ],
)
def test_a_value_is_no_name(answer, right):
    assert right_values(answer, target(("3", "2"), ("2", "1"))) == right


@pytest.mark.parametrize("answer", ["Count 7 4", "7: 4", "Count 4", "4"])
def test_a_value_alone_needs_no_name(answer):
    assert right_values(answer, target(("7", "4"))) == [True]
    assert right_values(answer, target(("7", "5"))) == [False]
