"""Sampling strategies as they are written."""

import pytest

from cambrian_gaze.data.mixture.sampling import Sampling


@pytest.mark.parametrize("strategy", ["rand:5", "first:", "first:0", "random:101%", "end:1.5", "first:-1", "random:0%"])
def test_strategies_that_are_none(strategy):
    with pytest.raises(ValueError, match="is no sampling strategy|needs a"):
        Sampling.parse(strategy)
