"""Region descriptors and the scores of queries against them (paper, section 3.2 and eq. 2). All in fp32, no gradient.

Shapes: B rows, H query heads, G KV heads, S keys, Q queries, R regions, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASS_PAIRS = 2**24
"""Pairs of a query (of a head) and a key whose logits `attention_mass_scores` holds at once."""


@torch.no_grad()
def describe(keys: Tensor, region: Tensor, num_regions: int, kind: str) -> Tensor:
    """Descriptor of every region from its keys.

    Args:
        keys: [B, G, S, D].
        region: int64 [B, S], -1 for keys of no region.
        kind: "mean", "max", or "minmax" (minimum and maximum side by side).

    Returns: fp32 (fp64 for fp64 keys) [B, G, R, D], or [B, G, R, 2·D] for "minmax"; 0 where a region has no key.
    """
    batch, heads, length, dim = keys.shape
    wide = torch.promote_types(keys.dtype, torch.float32)
    flat = keys.transpose(1, 2).reshape(batch * length, heads * dim).to(wide)
    bucket = torch.where(region < 0, num_regions, region)
    bucket = bucket + torch.arange(batch, device=keys.device)[:, None] * (num_regions + 1)
    bucket = bucket.flatten()
    shape = (batch * (num_regions + 1), heads * dim)

    def reduce(how: str) -> Tensor:
        out = flat.new_zeros(shape)
        if how == "mean":
            count = flat.new_zeros(shape[0]).index_add_(0, bucket, flat.new_ones(len(bucket)))
            out = out.index_add_(0, bucket, flat) / count.clamp(min=1)[:, None]
        else:
            out = out.scatter_reduce_(0, bucket[:, None].expand_as(flat), flat, how, include_self=False)
        return out.view(batch, num_regions + 1, heads, dim)[:, :num_regions].transpose(1, 2)

    if kind == "minmax":
        return torch.cat([reduce("amin"), reduce("amax")], dim=-1)
    return reduce("mean" if kind == "mean" else "amax")


@torch.no_grad()
def region_scores(q: Tensor, descriptors: Tensor, kind: str, granularity: str) -> Tensor:
    """s = q · d of every query and region (eq. 2), no 1/√d.

    Args:
        q: [B, H, Q, D].
        descriptors: as `describe` returns them.
        granularity: "q_head" → [B, H, Q, R]; "kv_group" (averaged over the heads of a KV head) → [B, G, Q, R].
    """
    groups = descriptors.shape[1]
    batch, heads, length, dim = q.shape
    average = granularity == "kv_group"
    grouped = q.reshape(batch, groups, heads // groups, length, dim)
    if average and kind != "minmax":
        return _products(grouped.mean(2, dtype=descriptors.dtype), descriptors)
    grouped = grouped.to(descriptors.dtype)
    if kind == "minmax":
        low, high = (d.unsqueeze(2).transpose(-1, -2) for d in descriptors.split(dim, dim=-1))
        scores = grouped.clamp(min=0) @ high + grouped.clamp(max=0) @ low
        return scores.mean(2) if average else scores.flatten(1, 2)
    return _products(grouped.flatten(2, 3), descriptors).view(batch, heads, length, -1)


def _products(q: Tensor, descriptors: Tensor) -> Tensor:
    """[B, G, N, D] and [B, G, R, D] → [B, G, N, R]; `matmul` takes several times as long to set this up."""
    products = torch.bmm(q.flatten(0, 1), descriptors.flatten(0, 1).transpose(1, 2))
    return products.view(*q.shape[:3], -1)


@torch.no_grad()
def attention_mass_scores(
    q: Tensor, keys: Tensor, region: Tensor, num_regions: int, scaling: float, granularity: str
) -> Tensor:
    """The "oracle" descriptor: log of each region's share of the dense attention, up to a constant per query.

    Same shapes as `describe` and `region_scores`; costs dense attention, of a bounded number of queries at a time.
    """
    step = max(1, MASS_PAIRS // max(1, q.shape[0] * q.shape[1] * keys.shape[2]))
    if q.shape[2] > step:
        given = keys, region, num_regions, scaling, granularity
        return torch.cat([attention_mass_scores(part, *given) for part in q.split(step, dim=2)], dim=2)
    batch, heads, length, dim = q.shape
    groups, size = keys.shape[1], keys.shape[2]
    wide = torch.promote_types(q.dtype, torch.float32)
    grouped = q.to(wide).reshape(batch, groups, -1, dim)
    logits = (grouped @ keys.to(wide).transpose(-1, -2) * scaling).view(batch, heads, length, size)
    bucket = torch.where(region < 0, num_regions, region)[:, None, None, :].expand_as(logits)
    # A peak of each region's own: with one over all keys, a key that the query may not even see could underflow them.
    peak = logits.new_full((batch, heads, length, num_regions + 1), -torch.inf)
    peak = peak.scatter_reduce_(-1, bucket, logits, "amax")
    mass = torch.zeros_like(peak).scatter_add_(-1, bucket, (logits - peak.gather(-1, bucket)).exp())
    scores = (mass.log() + peak)[..., :num_regions]
    if granularity == "kv_group":
        scores = scores.view(batch, groups, heads // groups, length, num_regions).mean(2)
    return scores
