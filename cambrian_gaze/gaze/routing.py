"""Visual routing: the K regions of highest score, per query and head (paper, eq. 2). No gradient passes through it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.layout import IMAGE, VIDEO, TokenLayout

SORT_UP_TO = 256
"""Regions up to which a plain stable sort is the faster way to rank; measured on a CPU. The result is the same."""


@dataclass(frozen=True)
class Pool:
    """Regions that compete in one TopK. The same in every layer, so that a decoding step makes them once."""

    hidden: Tensor | None
    """bool [B, 1, Q, R]: what a query may not choose; None: nothing."""

    dropped: Tensor | None
    """bool [B, 1, Q, most]: ranks from a query's own K on; None: every query keeps `most`."""

    most: int
    """The largest K that the budget can give: known on the host without a look at the data."""


def pools(offered: Tensor, layout: TokenLayout, config: GazeConfig) -> tuple[Pool, ...]:
    """One pool of all regions offered, bool [B, Q, R]; one per modality where `config.video` is given."""
    if config.video is None:
        return (_pool(offered, config.image, config.min_keep_ratio),)
    of_kind = ((kind, offered & (layout.region_modality == kind)[:, None, :]) for kind in (IMAGE, VIDEO))
    return tuple(_pool(mine, config.budget(kind), config.min_keep_ratio) for kind, mine in of_kind)


@torch.no_grad()
def choose_regions(scores: Tensor, offered: Tensor, layout: TokenLayout, config: GazeConfig) -> Tensor:
    """The regions that each query looks at; ties go to the lowest region number.

    Args:
        scores: fp32 [B, H, Q, R] (H query heads or KV heads).
        offered: bool [B, Q, R] (`visibility.regions_offered`).

    Returns: int64 [B, H, Q, K], by falling score, -1 where fewer than K regions are kept.
    """
    return choose_from(scores, pools(offered, layout, config))


@torch.no_grad()
def choose_from(scores: Tensor, pools: tuple[Pool, ...]) -> Tensor:
    """`choose_regions` from pools made before: shapes are fixed and nothing is read back from the device."""
    if len(pools) == 1:
        return _top(scores, pools[0])
    return torch.cat([_top(scores, pool) for pool in pools], dim=-1)


def regions_kept(offered: Tensor, budget: RegionBudget, min_keep_ratio: float) -> Tensor:
    """K of every query, clamped to what is offered: int64, the shape of `offered` (a count of regions)."""
    if budget.top_k is not None:
        kept = torch.full_like(offered, budget.top_k)
    elif budget.kv_budget is not None:
        kept = torch.full_like(offered, max(1, budget.kv_budget // budget.tokens_per_region))
    else:
        kept = _share(offered, 1.0 if budget.keep_ratio is None else budget.keep_ratio).clamp(min=1)
    if min_keep_ratio > 0:
        kept = torch.maximum(kept, _share(offered, min_keep_ratio))
    return torch.minimum(kept, offered)


def as_mask(regions: Tensor, num_regions: int) -> Tensor:
    """bool [B, H, Q, R] from the region numbers that `choose_regions` returns."""
    spare = torch.where(regions < 0, num_regions, regions)
    mask = torch.zeros((*regions.shape[:-1], num_regions + 1), dtype=torch.bool, device=regions.device)
    return mask.scatter_(-1, spare, True)[..., :num_regions]


def _share(count: Tensor, ratio: float) -> Tensor:
    """ceil(ratio · count), safe against the last bit of the product."""
    return (count.double() * ratio - 1e-9).ceil().long()


def _pool(offered: Tensor, budget: RegionBudget, min_keep_ratio: float) -> Pool:
    # The bound is the budget's K at all R regions: a number of the host, so that shapes need no look at the data.
    most = int(regions_kept(torch.tensor(offered.shape[-1]), budget, min_keep_ratio))
    kept = regions_kept(offered.sum(-1), budget, min_keep_ratio)
    hidden = ~offered[:, None]
    dropped = torch.arange(most, device=offered.device) >= kept[:, None, :, None]
    if offered.device.type != "cpu":  # looking would wait for the device
        return Pool(hidden, dropped, most)
    return Pool(hidden if hidden.any() else None, dropped if dropped.any() else None, most)


def _top(scores: Tensor, pool: Pool) -> Tensor:
    if pool.hidden is not None:
        lowest = torch.finfo(scores.dtype).min  # so that a score of -inf still ranks before what is not offered
        scores = scores.clamp(min=lowest).masked_fill(pool.hidden, -math.inf)
    order = _order(scores, pool.most)
    return order if pool.dropped is None else order.masked_fill(pool.dropped, -1)


def _order(ranked: Tensor, most: int) -> Tensor:
    """The first `most` places of a stable falling sort. `torch.topk` is several times cheaper where R is large, but
    breaks ties as it likes: it is given (score, -place) as one integer, in which nothing ties."""
    size = ranked.shape[-1]
    if ranked.dtype != torch.float32 or size <= SORT_UP_TO or 2 * most > size:
        return ranked.sort(dim=-1, descending=True, stable=True).indices[..., :most].contiguous()
    bits = (ranked + 0.0).view(torch.int32)  # -0.0 + 0.0 = 0.0: the two zeros tie
    falls = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    place = torch.arange(size - 1, -1, -1, device=ranked.device)
    best = ((falls.long() << 32) | place).topk(most, dim=-1).values
    return size - 1 - (best & 0xFFFFFFFF)
