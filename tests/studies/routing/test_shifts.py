"""How often the regions that a head chose change from word to word."""

from itertools import combinations

import pytest

from cambrian_gaze.studies.routing.shifts import gaze_shifts, random_shift
from tests.studies.routing._answers import Words, answer, record


def test_by_hand():
    # One layer, two heads; the second token of "B3x" counts for nothing. Of the three pairs of words the first head
    # changes one of two regions, then none, then both; the second stays.
    first = [[0, 1], [1, 2], [8, 9], [2, 1], [5, 6]]
    regions = [[[chosen, [3, 4]]] for chosen in first]
    found = gaze_shifts([record()], [answer(["Hop", "B3", "-x", "7", "8"], regions)], Words())
    assert found["pairs"] == 3
    assert found["changed"] == [pytest.approx([2 / 3, 0.0])]
    assert found["distance"] == [pytest.approx([(2 / 3 + 0 + 1) / 3, 0.0])]
    assert found["random"]["changed"] == pytest.approx(1 - 1 / 45)


def test_what_is_chosen_once_stays_at_zero():
    found = gaze_shifts([record()], [answer(["Hop", "B3", "7"], [[[[3, 4]], [[0, 1]]]] * 3)], Words())
    assert found["changed"] == found["distance"] == [[0.0], [0.0]]


@pytest.mark.parametrize(("first", "second"), [(2, 2), (1, 3), (0, 2), (0, 0), (4, 4)])
def test_what_is_expected_of_random_sets(first, second):
    pairs = [(set(a), set(b)) for a in combinations(range(5), first) for b in combinations(range(5), second)]
    differ = sum(a != b for a, b in pairs) / len(pairs)
    distance = sum(1 - len(a & b) / len(a | b) if a | b else 0.0 for a, b in pairs) / len(pairs)
    assert random_shift(5, first, second) == pytest.approx((differ, distance))


def test_an_answer_of_one_word_has_no_pair():
    assert gaze_shifts([record()], [answer(["7"], [[[[3]]]])], Words()) == {"pairs": 0}
