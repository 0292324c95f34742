"""Grid → region ids."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.gaze.regions import region_grid, region_ids

SIDES = st.tuples(st.integers(1, 4), st.integers(1, 13), st.integers(1, 13))


@given(SIDES, st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)))
def test_ids_follow_the_ceil_partition(grid, size):
    ids = region_ids(grid, size)
    assert ids.shape == grid and ids.dtype == torch.int64
    cells = sorted({(t // size[0], y // size[1], x // size[2]) for t, y, x in _places(grid)})
    number = {cell: g for g, cell in enumerate(cells)}
    for t, y, x in _places(grid):
        assert ids[t, y, x] == number[t // size[0], y // size[1], x // size[2]]
    n_t, n_h, n_w = region_grid(grid, size)
    assert n_t * n_h * n_w == len(cells)


def _places(grid):
    return [(t, y, x) for t in range(grid[0]) for y in range(grid[1]) for x in range(grid[2])]


@pytest.mark.parametrize(
    ("grid", "size", "counts"),
    [
        ((1, 24, 24), (1, 6, 6), [36] * 16),
        ((1, 12, 12), (1, 3, 3), [9] * 16),
        ((8, 24, 24), (1, 6, 6), [36] * 128),
        ((1, 27, 27), (1, 6, 6), ([36] * 4 + [18]) * 4 + [18] * 4 + [9]),
        ((1, 5, 7), (1, 3, 3), [9, 9, 3, 6, 6, 2]),
        ((3, 2, 2), (2, 2, 2), [8, 4]),
    ],
)
def test_true_counts(grid, size, counts):
    assert torch.bincount(region_ids(grid, size).flatten()).tolist() == counts


@pytest.mark.parametrize(
    ("grid", "size"), [((1, 0, 4), (1, 2, 2)), ((0, 4, 4), (1, 2, 2)), ((1, 4, 4), (1, 0, 2)), ((1, 4, 4), (1, 2, -1))]
)
def test_sizes_that_make_no_sense(grid, size):
    with pytest.raises(ValueError, match="positive"):
        region_ids(grid, size)
