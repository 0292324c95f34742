"""Grid → region ids (paper, section 3.2): visual tokens grouped by their place in space and time."""

from __future__ import annotations

import torch
from torch import Tensor


def region_grid(grid_thw: tuple[int, int, int], region_size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Number of regions along time, height and width: the ceil-partition, so ragged edges make smaller regions."""
    if any(g < 1 for g in grid_thw) or any(r < 1 for r in region_size):
        raise ValueError(f"grid {grid_thw} and region size {region_size} must be positive in every direction")
    t, h, w = (-(-g // r) for g, r in zip(grid_thw, region_size, strict=True))
    return t, h, w


def region_ids(grid_thw: tuple[int, int, int], region_size: tuple[int, int, int]) -> Tensor:
    """Region of every token of an image (T=1) or video.

    Args:
        grid_thw: frames, rows and columns of visual tokens after the projector.
        region_size: (r_t, r_h, r_w) in tokens.

    Returns: int64 [T, H, W], numbered from 0 in (time, row, column) order.
    """
    n_t, n_h, n_w = region_grid(grid_thw, region_size)
    t, h, w = (torch.arange(g) // r for g, r in zip(grid_thw, region_size, strict=True))
    return (t[:, None, None] * n_h + h[None, :, None]) * n_w + w[None, None, :]
