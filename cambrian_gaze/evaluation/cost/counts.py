"""Attended KV entries of an answer, as counted during generation, held against the cost model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cambrian_gaze.attention.policy.policy import Shown, VisiblePolicy
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.cost import Attended, attended_visual
from cambrian_gaze.gaze.layout import IMAGE
from cambrian_gaze.gaze.regions import region_ids


@dataclass(frozen=True)
class Limits:
    """What limited who could be seen, beside the budget."""

    policy: VisiblePolicy | None = None
    """In the place of routing."""
    retained: Tensor | None = None
    """int64 [layers, KV heads], the row's visual entries in memory under the policy."""
    hidden: frozenset[int] = frozenset()
    """Regions of the row that were hidden from its text."""


def count_attended(
    trace: Any,
    row: int,
    length: int,
    grids: Sequence[tuple[int, int, int]],
    kinds: Sequence[int],
    config: GazeConfig,
    limits: Limits = Limits(),
) -> dict[str, float]:
    """Mean counted KV entries per query, layer and head over the first `length` tokens of a row.

    Args:
        trace: a `GazeTrace`.
        grids: (T, h, w) of the row's images and videos, in visual tokens after the projector.
        kinds: IMAGE or VIDEO for each of them.
        config: the gaze under which the trace was made.
        limits: a policy, or regions that were hidden.

    Returns: `visual` (entries in the chosen regions, or visible under the policy), `context`, `of` (visual tokens in
    the cache), and under a policy `retained`.

    Raises: RuntimeError with the counts where they differ from the cost model, or from what the policy promises.
    """
    visual = trace.attended_visual[row, :length]
    context = trace.attended_context[row, :length]
    policy, retained = limits.policy, limits.retained
    cost = attended_visual(grids, config, kinds, limits.hidden)
    layers = visual.shape[1]
    what = shown(grids, kinds, config) if policy is not None else None
    for layer in range(layers):
        least, most = (_fewest(grids, kinds, config, cost), cost.selected) if config.routes(layer) else (cost.of,) * 2
        if policy is not None:
            least, most = _under(policy, what, layer, layers, config, cost)
        _compare(visual[:, layer], least, most, f"visual KV entries in layer {layer}")
    _compare(context, cost.context, cost.context, "context entries")
    counts = {"visual": visual.double().mean().item(), "context": context.double().mean().item(), "of": cost.of}
    if retained is not None:
        for layer in range(layers):
            kept = policy.retains(what, layer, layers)
            _compare(retained[layer], kept, kept, f"visual KV entries kept in layer {layer}")
        counts["retained"] = retained.double().mean().item()
    return counts


def shown(grids: Sequence[tuple[int, int, int]], kinds: Sequence[int], config: GazeConfig) -> Shown:
    """Sizes of the frames and regions of a row's images and videos."""
    units = [h * w for t, h, w in grids for _ in range(t)]
    regions = [
        size
        for grid, kind in zip(grids, kinds, strict=True)
        for size in torch.bincount(region_ids(grid, config.budget(kind).region_size).flatten()).tolist()
    ]
    return Shown(tuple(units), tuple(regions))


def regions_of_tokens(grids: Sequence[tuple[int, int, int]], kinds: Sequence[int], config: GazeConfig) -> Tensor:
    """int64 [N]: the region of each visual token of a row's images and videos, numbered over all of them."""
    found, first = [torch.zeros(0, dtype=torch.int64)], 0
    for grid, kind in zip(grids, kinds, strict=True):
        own = region_ids(grid, config.budget(kind).region_size).flatten()
        found.append(own + first)
        first += int(own.max()) + 1
    return torch.cat(found)


def expected_attended(
    grid: tuple[int, int, int],
    config: GazeConfig,
    layers: int,
    kind: int = IMAGE,
    policy: VisiblePolicy | None = None,
) -> tuple[float, float, int]:
    """What the cost model, or the policy, says of one image or video: least and most visual entries per query and head,
    as means over the decoder's layers (they differ where regions differ in size), and context entries."""
    cost = attended_visual([grid], config, [kind])
    if policy is not None:
        sizes = shown([grid], [kind], config)
        bounds = [_under(policy, sizes, layer, layers, config, cost) for layer in range(layers)]
        least, most = (sum(bound) / layers for bound in zip(*bounds, strict=True))
        return least, most, cost.context
    routed = sum(config.routes(layer) for layer in range(layers))
    dense = (layers - routed) * cost.of
    least = routed * _fewest([grid], [kind], config, cost)
    return (least + dense) / layers, (routed * cost.selected + dense) / layers, cost.context


def _fewest(grids: Sequence[tuple[int, int, int]], kinds: Sequence[int], config: GazeConfig, cost: Attended) -> int:
    """Fewest visual entries that K regions hold: as many as the most where all regions have one size, else one each."""
    sizes = {config.budget(kind).region_size for kind in kinds}
    tiles = all(
        side % region == 0
        for grid, kind in zip(grids, kinds, strict=True)
        for side, region in zip(grid, config.budget(kind).region_size, strict=True)
    )
    return cost.selected if tiles and len(sizes) <= 1 else cost.kept


def _under(
    policy: VisiblePolicy, what: Shown, layer: int, layers: int, config: GazeConfig, cost: Attended
) -> tuple[int, int]:
    """Least and most entries under a policy. Where gaze chooses K of the regions that it left something of: one of each
    at least, and no more than K regions hold."""
    least, most = policy.attends(what, layer, layers)
    return (min(least, cost.kept), min(most, cost.selected)) if config.routes(layer) else (least, most)


def _compare(counted: Tensor, least: int, most: int, what: str) -> None:
    low, high = int(counted.min()), int(counted.max())
    if low < least or high > most:
        expected = f"{most}" if least == most else f"{least} to {most}"
        raise RuntimeError(f"counted {low} to {high} {what} per query, but the cost model says {expected}")
