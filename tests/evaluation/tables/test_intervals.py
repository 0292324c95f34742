"""Bootstrap intervals: the same for the same seed, and of the right width."""

import math

import pytest

from cambrian_gaze.evaluation.tables.intervals import accuracy, bootstrap_interval, paired_interval

HALF = [(1, 1), (0, 1)] * 200


def test_accuracy_weighs_groups_by_their_answers():
    assert accuracy([(16, 16), (0, 4)]) == 0.8


def test_width_is_that_of_a_binomial():
    low, high = bootstrap_interval(HALF)
    expected = 1.96 * math.sqrt(0.25 / 400)
    assert 0.5 - low == pytest.approx(expected, rel=0.1) and high - 0.5 == pytest.approx(expected, rel=0.1)


def test_whole_groups_are_drawn():
    clustered = [(16, 16), (0, 16)] * 25
    low, high = bootstrap_interval(clustered)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 50), rel=0.15)


def test_deterministic_and_seeded():
    assert bootstrap_interval(HALF) == bootstrap_interval(HALF)
    assert bootstrap_interval(HALF, seed=1) != bootstrap_interval(HALF, seed=2)


def test_all_right_has_no_width():
    assert bootstrap_interval([(16, 16)] * 10) == (1.0, 1.0)


def test_pairs_share_their_noise():
    better = [(min(16, right + 1), 16) for right in range(16)]
    base = [(right, 16) for right in range(16)]
    assert paired_interval(better, base) == (1 / 16, 1 / 16)
    low, high = bootstrap_interval(better)
    assert high - low > 0.1


def test_empty_and_mismatched_groups():
    with pytest.raises(ValueError, match="no answers"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="share their groups"):
        paired_interval([(1, 2)], [(1, 2), (1, 2)])
