"""Scorers on answers written by hand."""

import pytest

from cambrian_gaze.evaluation.scorers.named_values import named_values, score_named_values

CELLS = [("B3", 7), ("A1", 4)]
COUNTS = [("sevens", 3), ("nines", 12)]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Read B3 7 A1 4", [True, True]),
        ("Read A1 4 B3 7", [True, True]),
        ("Read B3 7", [True, False]),
        ("Read B3 7 A1", [True, False]),
        ("Read B3 _ A1 4", [False, True]),
        ("Read B3 1 A1 4", [False, True]),
        ("Read B3 77 A1 4", [False, True]),
        ("Read B3 1 B3 7 A1 4", [False, True]),
        ("Read B3 7 B3 1 C2 9 A1 4", [True, True]),
        ("B3 7A1 4", [False, False]),
        ("B37 A1  4", [False, True]),
        ("XB3 7 A1 4.", [False, True]),
        ("B3 7.5 A1 -4", [False, False]),
        ("b3 7", [False, False]),
        ("", [False, False]),
    ],
)
def test_cells(answer, right):
    assert list(score_named_values(answer, CELLS).values()) == right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Count sevens 3 nines 12", [True, True]),
        ("Count sevens 2 nines 1", [False, False]),
        ("Count zeros 3", [False, False]),
        ("sevens 3, nines 12.", [True, True]),
    ],
)
def test_counts(answer, right):
    assert list(score_named_values(answer, COUNTS).values()) == right


def test_places_of_values():
    answer = "Read B3 7 A1 14"
    assert named_values(answer) == [("B3", 7, 8), ("A1", 14, 13)]
    assert [answer[value.place] for value in named_values(answer)] == ["7", "1"]
