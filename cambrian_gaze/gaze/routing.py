"""Visual routing: the K regions of highest score, per query and head (paper, eq. 2). No gradient passes through it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.layout import IMAGE, VIDEO, TokenLayout


@torch.no_grad()
def choose_regions(scores: Tensor, offered: Tensor, layout: TokenLayout, config: GazeConfig) -> Tensor:
    """The regions that each query looks at; ties go to the lowest region number.

    Args:
        scores: fp32 [B, H, Q, R] (H query heads or KV heads).
        offered: bool [B, Q, R] (`visibility.regions_offered`).

    Returns: int64 [B, H, Q, K], by falling score, -1 where fewer than K regions are kept. One TopK over all regions
    offered; one per modality where `config.video` is given.
    """
    if config.video is None:
        return _top(scores, offered, config.image, config.min_keep_ratio)
    pools = []
    for modality in (IMAGE, VIDEO):
        pool = offered & (layout.region_modality == modality)[:, None, :]
        pools.append(_top(scores, pool, config.budget(modality), config.min_keep_ratio))
    return torch.cat(pools, dim=-1)


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


def _top(scores: Tensor, offered: Tensor, budget: RegionBudget, min_keep_ratio: float) -> Tensor:
    num_regions = offered.shape[-1]
    most = _most(num_regions, budget, min_keep_ratio)
    kept = regions_kept(offered.sum(-1), budget, min_keep_ratio)
    lowest = torch.finfo(scores.dtype).min  # so that a score of -inf still ranks before what is not offered
    ranked = scores.clamp(min=lowest).masked_fill(~offered[:, None], -math.inf)
    order = ranked.sort(dim=-1, descending=True, stable=True).indices[..., :most]
    rank = torch.arange(most, device=scores.device)
    return order.masked_fill(rank >= kept[:, None, :, None], -1)


def _most(num_regions: int, budget: RegionBudget, min_keep_ratio: float) -> int:
    """An upper bound on K that needs no look at the data, so that shapes are known on the host."""
    return int(regions_kept(torch.tensor(num_regions), budget, min_keep_ratio))
