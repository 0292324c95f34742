"""Attended KV entries of an answer, as counted during generation, held against the cost model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.cost import Attended, attended_visual
from cambrian_gaze.gaze.layout import IMAGE


def count_attended(
    trace: Any,
    row: int,
    length: int,
    grids: Sequence[tuple[int, int, int]],
    kinds: Sequence[int],
    config: GazeConfig,
) -> dict[str, float]:
    """Mean counted KV entries per query, layer and head over the first `length` tokens of a row.

    Args:
        trace: a `GazeTrace`.
        grids: (T, h, w) of the row's images and videos, in visual tokens after the projector.
        kinds: IMAGE or VIDEO for each of them.
        config: the gaze under which the trace was made.

    Returns: `visual` (entries in the chosen regions), `context`, and `of` (visual tokens in the cache).

    Raises: RuntimeError with the counts where they differ from the cost model.
    """
    visual = trace.attended_visual[row, :length]
    context = trace.attended_context[row, :length]
    cost = attended_visual(grids, config, kinds)
    for layer in range(visual.shape[1]):
        least, most = (_fewest(grids, kinds, config, cost), cost.selected) if config.routes(layer) else (cost.of,) * 2
        _compare(visual[:, layer], least, most, f"visual KV entries in layer {layer}")
    _compare(context, cost.context, cost.context, "context entries")
    return {"visual": visual.double().mean().item(), "context": context.double().mean().item(), "of": cost.of}


def expected_attended(
    grid: tuple[int, int, int], config: GazeConfig, layers: int, kind: int = IMAGE
) -> tuple[float, float, int]:
    """What the cost model says of one image or video: least and most visual entries per query and head, as means over
    the decoder's layers (they differ where regions differ in size), and context entries."""
    cost = attended_visual([grid], config, [kind])
    routed = sum(config.routes(layer) for layer in range(layers))
    dense = (layers - routed) * cost.of
    least = routed * _fewest([grid], [kind], config, cost)
    return (least + dense) / layers, (routed * cost.selected + dense) / layers, cost.context


def _fewest(
    grids: Sequence[tuple[int, int, int]], kinds: Sequence[int], config: GazeConfig, cost: Attended
) -> int:
    """Fewest visual entries that K regions hold: as many as the most where all regions have one size, else one each."""
    sizes = {config.budget(kind).region_size for kind in kinds}
    tiles = all(
        side % region == 0
        for grid, kind in zip(grids, kinds, strict=True)
        for side, region in zip(grid, config.budget(kind).region_size, strict=True)
    )
    return cost.selected if tiles and len(sizes) <= 1 else cost.kept


def _compare(counted: Tensor, least: int, most: int, what: str) -> None:
    low, high = int(counted.min()), int(counted.max())
    if low < least or high > most:
        expected = f"{most}" if least == most else f"{least} to {most}"
        raise RuntimeError(f"counted {low} to {high} {what} per query, but the cost model says {expected}")
