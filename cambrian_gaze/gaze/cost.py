"""Cost model: the KV entries that a query attends to (paper, section 3.5). Runs assert their counts against it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import IMAGE, VIDEO
from cambrian_gaze.gaze.regions import region_grid, region_ids
from cambrian_gaze.gaze.routing import regions_kept


@dataclass(frozen=True)
class Attended:
    """Visual KV entries per text query, head and layer."""

    selected: int
    """Visual tokens in the K regions: K·m; with ragged regions the most that K regions can hold."""

    context: int
    """Context tokens in view: |C| per unit."""

    of: int
    """Visual tokens in the cache."""

    regions: int
    """R, the regions offered."""

    kept: int
    """K, the regions kept."""

    @property
    def total(self) -> int:
        """K·m + |C|·U."""
        return self.selected + self.context

    @property
    def share(self) -> float:
        """`total` over the visual tokens in the cache."""
        return self.total / self.of if self.of else 0.0


def attended_visual(
    grids: Iterable[tuple[int, int, int]],
    config: GazeConfig,
    modalities: Iterable[int] | None = None,
    hidden: Collection[int] = (),
) -> Attended:
    """What one text query attends to when the images and videos `grids` lie before it.

    Args:
        grids: (T, h, w) per image (T=1) or video, in visual tokens after the projector.
        config: region sizes, budget and |C|.
        modalities: `layout.IMAGE` or `layout.VIDEO` per grid; None: video where T > 1.
        hidden: regions that the query is not offered, numbered over all grids in their order.
    """
    grids = list(grids)
    kinds = [VIDEO if t > 1 else IMAGE for t, _, _ in grids] if modalities is None else list(modalities)
    units = sum(t for t, _, _ in grids)
    of = sum(t * h * w for t, h, w in grids)
    context = config.num_context_tokens * units if config.context_visible else 0
    pools = [(IMAGE, VIDEO)] if config.video is None else [(IMAGE,), (VIDEO,)]
    offered: list[tuple[int, list[int]]] = []  # by grid: its kind, sizes of its regions
    first = 0
    for grid, kind in zip(grids, kinds, strict=True):
        counts = torch.bincount(region_ids(grid, config.budget(kind).region_size).flatten()).tolist()
        offered.append((kind, [size for number, size in enumerate(counts, first) if number not in hidden]))
        first += len(counts)
    selected = regions = kept = 0
    for pool in pools:
        sizes = [size for kind, own in offered if kind in pool for size in own]
        k = int(regions_kept(torch.tensor(len(sizes)), config.budget(pool[0]), config.min_keep_ratio))
        selected += sum(sorted(sizes, reverse=True)[:k])
        regions += len(sizes)
        kept += k
    return Attended(selected=selected, context=context, of=of, regions=regions, kept=kept)


def num_regions(grid: tuple[int, int, int], region_size: tuple[int, int, int]) -> int:
    """R of one image or video."""
    n_t, n_h, n_w = region_grid(grid, region_size)
    return n_t * n_h * n_w
