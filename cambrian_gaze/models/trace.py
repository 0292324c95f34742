"""`GazeTrace`: where the model looked while it generated, as counted in that run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cambrian_gaze.attention import GazeRecorder
from cambrian_gaze.data.media.aspect import region_pixels
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.regions import region_grid


@dataclass
class GazeWeights:
    """Softmax weights of every generated token, in at least fp32: of the query that predicted it. N: visual tokens of
    the widest row; other letters as in `GazeTrace`. The weights of a head sum to 1 over all that it attended to."""

    visual: Tensor
    """[B, T, L, N]: on each visual token in the order of the sequence, mean over heads. What a head did not attend to
    counts as 0."""

    inside: Tensor
    """[B, T, L, H, K]: inside each region of `GazeTrace.regions`, 0 where that is -1."""

    by_role: Tensor
    """[B, T, L, H, 3]: on visual, context and text entries."""

    dense: Tensor | None = None
    """[B, T, L, H, N], where `return_gaze="mass"` asked for it: what the same query's weights on the visual tokens
    would be among themselves if it saw them all."""


@dataclass
class GazeTrace:
    """Gaze of every generated token. B rows, T new tokens, L layers, H query heads, K regions."""

    regions: Tensor
    """int64 [B, T, L, H, K]: regions chosen, numbered within the row in order of appearance; -1 where fewer than K."""

    attended_visual: Tensor
    """int64 [B, T, L, H]: visual KV entries that entered the softmax."""

    attended_context: Tensor
    """int64 [B, T, L, H]: context KV entries."""

    attended_text: Tensor
    """int64 [B, T, L, H]: text KV entries."""

    grid_thw: Tensor
    """int64 [items, 3]: grids of the images and videos, in order of appearance over the batch."""

    boxes: list[list[tuple[int, int, int, int, int, int, int]]]
    """See `region_boxes`."""

    weights: GazeWeights | None = None
    """Where `return_gaze="weights"` or `"mass"` asked for them."""

    def region_boxes(self, row: int) -> list[tuple[int, int, int, int, int, int, int]]:
        """Per region of a row: (item within the row, first frame, end frame, top, left, bottom, right), ends
        exclusive, in visual tokens of the item's grid."""
        return self.boxes[row]

    def region_pixels(
        self, row: int, sizes: list[tuple[int, int]], image_aspect_ratio: str
    ) -> list[tuple[int, int, int, int, int, int, int]]:
        """`region_boxes` in pixels: (item, first frame, end frame, x0, y0, x1, y1), ends exclusive. `sizes`: width and
        height of each image, or of each video's frames; `image_aspect_ratio`: the processor's. See
        `data.aspect.region_pixels`."""
        boxes = self.region_boxes(row)
        grids: dict[int, tuple[int, int]] = {}
        for item, _, _, _, _, bottom, right in boxes:
            rows, columns = grids.get(item, (0, 0))
            grids[item] = max(rows, bottom), max(columns, right)
        return [
            (item, first, end, *region_pixels(place, grids[item], sizes[item], image_aspect_ratio))
            for item, first, end, *place in boxes
        ]


@dataclass
class TraceBuilder:
    """Collects one recorder per forward call of `generate`."""

    config: GazeConfig
    weights: bool = False
    """Whether softmax weights are wanted."""
    dense: bool = False
    """Whether those of dense attention are wanted beside them."""
    steps: list[GazeRecorder] = field(default_factory=list)

    def add(self, recorder: GazeRecorder) -> None:
        """One forward call has ended."""
        self.steps.append(recorder)

    def build(
        self,
        new_tokens: int,
        boxes: list[list[tuple[int, ...]]],
        grid_thw: Tensor | None,
        beam_indices: Tensor | None = None,
    ) -> GazeTrace:
        """Stack what was collected.

        Args:
            new_tokens: T; calls beyond it (none in greedy search and sampling) are left out.
            boxes: per row of the batch that comes out.
            beam_indices: int64 [B, T], the row of the running batch that produced each token (beam search), -1 after
                the end of a sequence.
        """
        steps = self.steps[:new_tokens]
        counted = ("regions", "visual", "context", "text")
        stacked = {name: _side_by_side([_stack(step.layers, name) for step in steps], name, 1) for name in counted}
        if self.weights:
            stacked |= {
                f"weights.{name}": _side_by_side([_stack(step.weights.layers, name) for step in steps], name, 1)
                for name in ("visual", "inside", "by_role")
            }
        if self.dense:
            by_layer = [[step.weights.dense[n] for n in sorted(step.weights.dense)] for step in steps]
            stacked["weights.dense"] = _side_by_side([_side_by_side(one, "dense", 1).cpu() for one in by_layer], "", 1)
        if beam_indices is not None:
            row = beam_indices[:, :new_tokens].clamp(min=0).cpu()
            step = torch.arange(row.shape[1]).expand_as(row)
            ended = beam_indices[:, :new_tokens].cpu() < 0
            stacked = {name: values[row, step] for name, values in stacked.items()}
            stacked = {name: values.clone() for name, values in stacked.items()}
            for name, values in stacked.items():
                values[ended] = -1 if name == "regions" else 0
        grids = torch.zeros((0, 3), dtype=torch.int64) if grid_thw is None else grid_thw.cpu()
        weights = None
        if self.weights:
            weights = GazeWeights(*(stacked[f"weights.{name}"] for name in ("visual", "inside", "by_role")))
            weights.dense = stacked.get("weights.dense")
        return GazeTrace(*(stacked[name] for name in counted), grids, boxes, weights)


def _stack(layers: dict[int, Any], name: str) -> Tensor:
    """[B, L, H, …] of one forward call, KV-group choices repeated for their query heads; [B, L, N] of weights."""
    values = [getattr(layers[number], name) for number in sorted(layers)]
    if name == "regions":
        heads = next(iter(layers.values())).visual.shape[1]
        values = [v.repeat_interleave(heads // v.shape[1], dim=1) for v in values]
    return _side_by_side(values, name, 1).cpu()


def _side_by_side(values: Sequence[Tensor], name: str, dim: int) -> Tensor:
    """Stacked, the last dimension filled up: regions with -1, the rest with 0."""
    widest = max(v.shape[-1] for v in values)
    fill = -1 if name == "regions" else 0
    return torch.stack([torch.nn.functional.pad(v, (0, widest - v.shape[-1]), value=fill) for v in values], dim)


def boxes_of_row(
    grids: list[tuple[int, int, int]], modalities: list[int], config: GazeConfig
) -> list[tuple[int, int, int, int, int, int, int]]:
    """Boxes of the regions of a row's images and videos, in region order."""
    boxes = []
    for item, (grid, modality) in enumerate(zip(grids, modalities, strict=True)):
        r_t, r_h, r_w = config.budget(modality).region_size
        n_t, n_h, n_w = region_grid(grid, (r_t, r_h, r_w))
        for t in range(n_t):
            for h in range(n_h):
                for w in range(n_w):
                    low = (t * r_t, h * r_h, w * r_w)
                    high = tuple(min(a + r, g) for a, r, g in zip(low, (r_t, r_h, r_w), grid, strict=True))
                    boxes.append((item, low[0], high[0], low[1], low[2], high[1], high[2]))
    return boxes
