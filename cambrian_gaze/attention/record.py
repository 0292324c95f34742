"""Counting what was attended. Counts come from the masks and slots that the attention really used."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class LayerGaze:
    """The last query of each row in one layer."""

    regions: Tensor
    """int64 [B, H or G, K]: regions chosen, -1 where fewer."""

    visual: Tensor
    """int64 [B, H]: visual entries attended."""

    context: Tensor
    """int64 [B, H]: context entries attended."""

    text: Tensor
    """int64 [B, H]: text entries attended, the query's own included."""


@dataclass
class GazeRecorder:
    """Collects the gaze of the last query per layer and, over all text queries that see a region, running sums."""

    last_only: bool = False
    """Count the last query of each row and no other: all that a trace of generation needs."""

    layers: dict[int, LayerGaze] = field(default_factory=dict)
    """By decoder layer."""

    sums: Tensor | None = None
    """fp64 [5]: queries × heads × layers, and over them visual and context entries attended, visual entries before
    the query, and regions kept."""

    def record(
        self,
        layer: int,
        regions: Tensor,
        visual: Tensor,
        context: Tensor,
        text: Tensor,
        before: Tensor,
        looking: Tensor,
    ) -> None:
        """Add one layer's counts.

        Args:
            regions: int64 [B, H or G, Q, K], -1 for none.
            visual, context, text: int64 [B, H, Q], entries of each role that entered the softmax.
            before: int64 [B, Q], visual entries that lie before the query.
            looking: bool [B, Q], text queries after a visual unit; only these enter the sums.
        """
        self.layers[layer] = LayerGaze(regions[:, :, -1], visual[:, :, -1], context[:, :, -1], text[:, :, -1])
        heads, weight = visual.shape[1], looking[:, None].long()
        kept = (regions >= 0).sum(-1) * (heads // regions.shape[1])
        counted = [torch.ones_like(visual), visual, context, before[:, None].expand_as(visual), kept]
        total = torch.stack([(c * weight).sum() for c in counted]).double()
        self.sums = total if self.sums is None else self.sums + total

    def stats(self) -> GazeStats:
        """Means over queries, heads and layers. Synchronises with the device."""
        if self.sums is None or self.sums[0] == 0:
            return GazeStats(0.0, 0.0, 0.0, 0.0)
        queries, visual, context, before, kept = self.sums.tolist()
        return GazeStats(visual / queries, context / queries, before / queries, kept / queries)


@dataclass(frozen=True)
class GazeStats:
    """Mean over the text queries that come after a visual unit, their heads and layers, as counted."""

    attended_visual: float
    """Visual entries attended."""

    attended_context: float
    """Context entries attended."""

    visible_visual: float
    """Visual entries before the query."""

    k: float
    """Regions kept."""

    @property
    def share(self) -> float:
        """Attended visual and context entries over the visual entries before the query."""
        if not self.visible_visual:
            return 0.0
        return (self.attended_visual + self.attended_context) / self.visible_visual
