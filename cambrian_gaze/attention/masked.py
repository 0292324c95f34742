"""`masked`: scaled dot-product attention under the mask that visibility and routing give. Dense cost at every K, exact;
the reference beside the oracle and the default for training on CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.gaze.layout import CONTEXT, TEXT, VISUAL
from cambrian_gaze.gaze.routing import as_mask
from cambrian_gaze.gaze.visibility import routable, structure


def prepare(ctx: GazeContext) -> None:
    """The parts of the mask that are the same in every layer."""
    ctx.prepared["structure"] = structure(ctx.layout, ctx.key_layout, ctx.config)[:, None]
    if not ctx.config.is_dense:
        ctx.prepared["free"] = ~routable(ctx.layout, ctx.key_layout, ctx.config)[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, ctx: GazeContext, layer: int, scaling: float, dropout: float) -> Tensor:
    """Attention of q [B, H, Q, D] over k, v [B, G, S, D]; returns [B, H, Q, D]."""
    allowed, regions = _allowed(q, k, ctx, layer, scaling)
    if ctx.recorder is not None:
        record_mask(ctx, layer, allowed.expand(-1, q.shape[1], -1, -1), regions)
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = (x.repeat_interleave(repeats, dim=1) for x in (k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout, scale=scaling)


def _allowed(q: Tensor, k: Tensor, ctx: GazeContext, layer: int, scaling: float) -> tuple[Tensor, Tensor]:
    """bool [B, H or 1, Q, S]: pairs that enter the softmax; and the regions chosen."""
    base, num_regions = ctx.prepared["structure"], ctx.layout.num_regions
    if num_regions == 0 or not ctx.config.routes(layer):
        return base, every_region(ctx)
    region = ctx.key_layout.region
    regions = ctx.choose(layer, q, k, region, scaling)
    chosen = as_mask(regions, num_regions)
    at_key = region.clamp(min=0)[:, None, None, :].expand(*chosen.shape[:3], -1)
    allowed = (chosen.gather(-1, at_key) | ctx.prepared["free"]) & base
    if allowed.shape[1] != q.shape[1]:
        allowed = allowed.repeat_interleave(q.shape[1] // allowed.shape[1], dim=1)
    return allowed, regions


def every_region(ctx: GazeContext) -> Tensor:
    """The "choice" of a layer that does not route: all regions offered, int64 [B, 1, Q, R]."""
    number = torch.arange(ctx.layout.num_regions, device=ctx.offered.device)
    return number.where(ctx.offered, -1)[:, None]


def record_mask(ctx: GazeContext, layer: int, allowed: Tensor, regions: Tensor) -> None:
    """Count the pairs that entered the softmax. allowed: bool [B, H, Q, S]."""
    keys, queries = ctx.key_layout, ctx.layout
    if ctx.recorder.last_only:
        allowed, regions, queries = allowed[:, :, -1:], regions[:, :, -1:], queries.tokens(slice(-1, None))
    counts = [(allowed & (keys.role == role)[:, None, None, :]).sum(-1) for role in (VISUAL, CONTEXT, TEXT)]
    before = (keys.index[:, None, :] <= queries.index[:, :, None]) & (keys.role == VISUAL)[:, None, :]
    before = (before & (keys.sample[:, None, :] == queries.sample[:, :, None])).sum(-1)
    ctx.recorder.record(layer, regions, *counts, before, (queries.role == TEXT) & (before > 0))
