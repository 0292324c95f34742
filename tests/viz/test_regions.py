import pytest
import torch

from cambrian_gaze.viz.regions import RegionBox, as_boxes, grid_extent, pixel_box, region_share
from tests.viz._stand_in import tiling


def test_share_counts_pairs_that_chose_a_region():
    chosen = torch.tensor([[[0, 3], [3, 1]], [[3, -1], [2, 3]]])  # 2 layers, 2 heads, K = 2
    assert region_share(chosen, 5).tolist() == [0.25, 0.25, 0.25, 1.0, 0.0]


def test_dense_pairs_do_not_thin_the_share():
    chosen = torch.tensor([[[1, 2]], [[-1, -1]]])
    assert region_share(chosen, 3).tolist() == [0.0, 1.0, 1.0]
    assert region_share(torch.full((2, 2, 1), -1), 3).tolist() == [0.0, 0.0, 0.0]


def test_a_repeated_region_counts_once():
    assert region_share(torch.tensor([[[1, 1]]]), 2).tolist() == [0.0, 1.0]


def test_more_regions_than_boxes_is_an_error():
    with pytest.raises(ValueError, match="region 7 .* 4 region boxes"):
        region_share(torch.tensor([[[7]]]), 4)
    with pytest.raises(ValueError, match="layers, heads, K"):
        region_share(torch.zeros(3, 2, dtype=torch.int64), 4)


def test_boxes_are_checked():
    assert as_boxes([(1, 2, 3, 4)]) == [RegionBox(0, 0, 1, 1, 2, 3, 4)]
    with pytest.raises(ValueError, match="region 1: a box has 4 or 7"):
        as_boxes([(0, 0, 1, 1), (1, 2)])
    with pytest.raises(ValueError, match="negative"):
        as_boxes([(0, 0, -1, 1)])
    with pytest.raises(ValueError, match="no regions"):
        grid_extent([])


@pytest.mark.parametrize("grid, region, size", [((27, 27), (6, 6), (270, 270)), ((5, 7), (2, 3), (101, 64))])
def test_ragged_regions_tile_the_picture_exactly(grid, region, size):
    boxes = as_boxes(tiling(*grid, region))
    assert grid_extent(boxes) == (1, *grid)
    cover = torch.zeros(size[1], size[0], dtype=torch.int64)
    for box in boxes:
        x0, y0, x1, y1 = pixel_box(box, grid, size)
        cover[y0:y1, x0:x1] += 1
    assert (cover == 1).all()


def test_a_region_beyond_the_grid_is_an_error():
    with pytest.raises(ValueError, match="beyond the grid of 4x4"):
        pixel_box(RegionBox(0, 0, 1, 0, 0, 5, 4), (4, 4), (10, 10))
