"""From a gaze trace to numbers per region: who was chosen by what share of the (layer, head) pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cambrian_gaze.data.media.aspect import region_pixels


class RegionBox(NamedTuple):
    """The place of one gaze region, in units of grid tokens. All ends are exclusive."""

    item: int
    """Which image or video: the row of `grid_thw`."""
    frame0: int
    frame1: int
    top: int
    left: int
    bottom: int
    right: int

    @property
    def empty(self) -> bool:
        return self.frame1 <= self.frame0 or self.bottom <= self.top or self.right <= self.left


def as_boxes(boxes: Iterable[Sequence[int]]) -> list[RegionBox]:
    """Checks boxes given as (item, frame0, frame1, top, left, bottom, right) or, for one image, (top, left, bottom,
    right)."""
    checked = []
    for place, box in enumerate(boxes):
        numbers = tuple(int(number) for number in box)
        if len(numbers) == 4:
            numbers = (0, 0, 1, *numbers)
        if len(numbers) != 7:
            raise ValueError(f"region {place}: a box has 4 or 7 numbers, not {len(numbers)}: {numbers}")
        if min(numbers) < 0:
            raise ValueError(f"region {place}: a box has no negative numbers: {numbers}")
        checked.append(RegionBox(*numbers))
    return checked


def grid_extent(boxes: Iterable[RegionBox]) -> tuple[int, int, int]:
    """(frames, height, width) of the token grid that the regions of one item tile."""
    full = [box for box in boxes if not box.empty]
    if not full:
        raise ValueError("no regions: the grid cannot be known from them; pass grid_hw")
    return max(box.frame1 for box in full), max(box.bottom for box in full), max(box.right for box in full)


def region_share(chosen: Any, num_regions: int) -> np.ndarray:
    """Share of the routing (layer, head) pairs that chose each region.

    `chosen` is an integer array or tensor [layers, heads, K] of region ids, negative where there is none. Pairs that
    chose nothing (dense layers) count neither above nor below the line. Returns float64 [num_regions], each in [0, 1].
    """
    if chosen.ndim != 3:
        raise ValueError(f"chosen must be [layers, heads, K], not {tuple(chosen.shape)}")
    chosen = chosen if isinstance(chosen, np.ndarray) else chosen.detach().cpu().numpy()
    pairs = chosen.reshape(chosen.shape[0] * chosen.shape[1], -1 if chosen.size else 0).astype(np.int64)  # [P, K]
    if pairs.size and pairs.max() >= num_regions:
        raise ValueError(f"region {pairs.max()} was chosen, but there are {num_regions} region boxes")
    votes = np.zeros((len(pairs), num_regions + 1), dtype=bool)
    np.put_along_axis(votes, np.where(pairs < 0, num_regions, pairs), True, axis=1)  # the last column takes negatives
    votes = votes[:, :num_regions]
    return votes.sum(0) / max(1, int(votes.any(1).sum()))


def pixel_box(box: RegionBox, grid_hw: tuple[int, int], size_wh: tuple[int, int]) -> tuple[int, int, int, int]:
    """Pixels (x0, y0, x1, y1), ends exclusive, of a region in a picture that shows the whole grid (`model_view`)."""
    return region_pixels((box.top, box.left, box.bottom, box.right), grid_hw, size_wh)
