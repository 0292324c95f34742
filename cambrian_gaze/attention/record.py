"""Counting what was attended. Counts come from the masks and slots that the attention really used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Counts(NamedTuple):
    """What the Q queries of a layer attended to, or some of them."""

    visual: Tensor
    """int64 [B, H, Q], visual entries that entered the softmax."""
    context: Tensor
    """int64 [B, H, Q], context entries."""
    text: Tensor
    """int64 [B, H, Q], text entries, the query's own included."""
    before: Tensor
    """int64 [B, Q], visual entries that lie before the query."""
    looking: Tensor
    """bool [B, Q], text queries after a visual unit; only these enter the recorder's sums."""

    @classmethod
    def of_blocks(cls, blocks: Sequence[Counts]) -> Counts:
        """Of blocks of queries, one after the other."""
        return cls(*(torch.cat(parts, dim=-1) for parts in zip(*blocks, strict=True)))


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


class LayerWeights(NamedTuple):
    """Weights of one layer, in at least fp32. Those of one head sum to 1; a query of padding has none."""

    visual: Tensor
    """[B, N]: on each visual token in the order of the sequence, mean over heads; 0 beyond a row's tokens."""
    inside: Tensor
    """[B, H, K]: inside each chosen region, 0 where there is none."""
    by_role: Tensor
    """[B, H, 3]: on visual, context and text entries."""


@dataclass
class WeightRecorder:
    """Collects the softmax weights of each row's last query in one forward call; `weights.py` computes them."""

    layers: dict[int, LayerWeights] = field(default_factory=dict)
    """By decoder layer."""

    dense: dict[int, Tensor] | None = None
    """Where given: by decoder layer [B, H, N], what each head's weights on the visual tokens would be among themselves
    if it saw them all; they sum to 1, or to 0 where there are none. Reads all visual keys."""

    allowed: Tensor | None = None
    """bool [B, H, S]: under a policy, which keys [page slots, text and context columns] the last query of the layer
    that has just run saw."""

    shared: Any = None
    """What `weights.py` makes of the layouts, once for all layers."""


@dataclass
class GazeRecorder:
    """Collects the gaze of the last query per layer and, over all text queries that see a region, running sums."""

    last_only: bool = False
    """Count the last query of each row and no other: all that a trace of generation needs."""

    layers: dict[int, LayerGaze] = field(default_factory=dict)
    """By decoder layer."""

    num_regions: int = 0
    """Regions of the widest row; 0: how choices spread over regions is not counted."""

    routes: Callable[[int], bool] | None = None
    """Which layers choose; of the others no spread is counted. Default: all."""

    weights: WeightRecorder | None = None
    """Where the softmax weights of the last query are wanted."""

    usage: dict[int, Tensor] = field(default_factory=dict)
    """By decoder layer, int64 [B, num_regions]: how often the queries that enter the sums chose each region, over
    heads."""

    sums: Tensor | None = None
    """fp64 [5]: queries × heads × layers, and over them visual and context entries attended, visual entries before
    the query, and regions kept."""

    def record(self, layer: int, regions: Tensor, counts: Counts) -> None:
        """Add what one layer's queries attended to, and the regions int64 [B, H or G, Q, K] that they chose, -1 for
        none."""
        visual, context, text, before, looking = counts
        self.layers[layer] = LayerGaze(regions[:, :, -1], visual[:, :, -1], context[:, :, -1], text[:, :, -1])
        heads, weight = visual.shape[1], looking[:, None].long()
        kept = (regions >= 0).sum(-1) * (heads // regions.shape[1])
        counted = [torch.ones_like(visual), visual, context, before[:, None].expand_as(visual), kept]
        total = torch.stack([(c * weight).sum() for c in counted]).double()
        self.sums = total if self.sums is None else self.sums + total
        if self.num_regions and not self.last_only and (self.routes is None or self.routes(layer)):
            number = torch.where(looking[:, None, :, None], regions, -1).flatten(1) + 1
            used = number.new_zeros(len(number), self.num_regions + 1)
            self.usage[layer] = used.scatter_add_(1, number, torch.ones_like(number))[:, 1:]

    def spread(self, offered: Tensor) -> tuple[float, float] | None:
        """Routing entropy and region coverage, means over rows with at least two regions and the layers that `usage`
        holds; None where there are none. Synchronises.

        Args:
            offered: bool [B, R], the regions that there are in each row.
        """
        regions = offered.sum(-1)
        rows = regions > 1
        if not self.usage or not rows.any():
            return None
        used = torch.stack(list(self.usage.values()))[:, rows].double()
        shares = used / used.sum(-1, keepdim=True).clamp(min=1)
        entropy = torch.special.entr(shares).sum(-1) / regions[rows].double().log()
        coverage = (used > 0).sum(-1) / regions[rows]
        chose = used.sum(-1) > 0  # A row whose pictures no text follows chose nothing.
        if not chose.any():
            return None
        return entropy[chose].mean().item(), coverage[chose].mean().item()

    def stats(self, offered: Tensor | None = None) -> GazeStats:
        """Means over queries, heads and layers; with `offered` (see `spread`) how choices spread, too. Synchronises
        with the device."""
        if self.sums is None or self.sums[0] == 0:
            return GazeStats(0.0, 0.0, 0.0, 0.0)
        queries, visual, context, before, kept = self.sums.tolist()
        spread = self.spread(offered) if offered is not None else None
        return GazeStats(visual / queries, context / queries, before / queries, kept / queries, *(spread or ()))


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

    routing_entropy: float | None = None
    """Entropy of the choices of a row's queries and heads over its regions, over the logarithm of their number, mean
    over rows and layers: 1 where all are chosen alike, 0 where it is always the same one."""

    region_coverage: float | None = None
    """Share of a row's regions that any of its queries and heads chose, mean over rows and layers."""

    topk_mass: float | None = None
    """Share of the dense attention to visual tokens that lies inside the chosen regions, mean over the queries that
    choose, their heads and layers; where it was asked for."""

    @property
    def share(self) -> float:
        """Attended visual and context entries over the visual entries before the query."""
        if not self.visible_visual:
            return 0.0
        return (self.attended_visual + self.attended_context) / self.visible_visual
