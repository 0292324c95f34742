"""A gaze trace as the overlays need it, built from a region tiling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def tiling(height: int, width: int, region: tuple[int, int], frames: int = 1, item: int = 0, per: int = 1):
    """Boxes of a ceil partition: (item, frame0, frame1, top, left, bottom, right), frames outermost."""
    return [
        (item, frame, min(frame + per, frames), top, left, min(top + region[0], height), min(left + region[1], width))
        for frame in range(0, frames, per)
        for top in range(0, height, region[0])
        for left in range(0, width, region[1])
    ]


@dataclass
class StandIn:
    regions: Tensor
    """int64 [batch, new tokens, layers, heads, K]."""
    boxes: list

    def region_boxes(self, batch_index: int):
        return self.boxes


def trace_of(votes: list[list[int]], boxes: list, layers: int = 2, heads: int = 2) -> StandIn:
    """A trace whose every (layer, head) pair chose, for each token, the regions listed for it."""
    chosen = torch.tensor(votes)[None, :, None, None, :].expand(1, len(votes), layers, heads, -1)
    return StandIn(chosen.clone(), boxes)
