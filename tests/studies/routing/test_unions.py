"""How many regions several heads choose together."""

from itertools import product

import pytest

from cambrian_gaze.studies.routing.unions import region_unions
from tests.studies.routing._answers import answer, record


def test_by_hand():
    # Two steps, two layers, four heads of two KV heads, K=2 of 10 regions of 4 entries.
    one = [[[0, 1], [1, 2], [0, 1], [0, 1]], [[5, 6], [5, 6], [5, 6], [5, 6]]]
    two = [[[0, 1], [2, 3], [4, 5], [6, 7]], [[0, 1], [0, 1], [0, 2], [0, -1]]]
    found = region_unions([record()], [answer(["a", "b"], [one, two])], kv_heads=2)
    assert (found["steps"], found["regions"], found["entries"]) == (2, 10, 4)
    assert found["head"] == pytest.approx((2 + 15 / 8) / 2)
    assert found["kv_head"] == pytest.approx([((3 + 2) / 2 + (4 + 4) / 2) / 2, ((2 + 2) / 2 + (2 + 2) / 2) / 2])
    assert found["layer"] == pytest.approx([(3 + 8) / 2, (2 + 3) / 2])
    assert found["model"] == pytest.approx((5 + 8) / 2)


def test_what_is_expected_of_random_heads():
    found = region_unions([record(grid=(1, 4))], [answer(["a"], [[[[0], [0]], [[1], [2]]]], of=4)], kv_heads=1)
    draws = [len(set(chosen)) for chosen in product(range(4), repeat=2)]
    assert found["random"]["kv_head"] == pytest.approx(sum(draws) / len(draws))
    assert found["random"]["layer"] == pytest.approx(sum(draws) / len(draws))
    draws = [len(set(chosen)) for chosen in product(range(4), repeat=4)]
    assert found["random"]["model"] == pytest.approx(sum(draws) / len(draws))


def test_no_answers():
    assert region_unions([], [], kv_heads=1) == {"steps": 0}
