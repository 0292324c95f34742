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
    base = ctx.prepared["structure"] = structure(ctx.layout, ctx.key_layout, ctx.config)[:, None]
    if ctx.layout.num_regions == 0 or ctx.config.is_dense:
        return
    router, tokens = ctx.of_routing_queries()
    free = ~routable(router.layout, ctx.key_layout, ctx.config)[:, None]
    there = base.gather(2, tokens[:, None, :, None].expand(-1, 1, -1, base.shape[3]))
    ctx.prepared.update(router=router, tokens=tokens, free=free & there, routable=~free & there)


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
    tokens, region = ctx.prepared["tokens"][:, None, :, None], ctx.key_layout.region
    asking = q.detach().gather(2, tokens.expand(-1, q.shape[1], -1, q.shape[3]))
    regions = ctx.prepared["router"].choose(layer, asking, k, region, scaling)
    chosen = as_mask(regions, num_regions)
    at_key = region.clamp(min=0)[:, None, None, :].expand(*chosen.shape[:3], -1)
    seen = (chosen.gather(-1, at_key) & ctx.prepared["routable"]) | ctx.prepared["free"]
    seen = seen.repeat_interleave(q.shape[1] // seen.shape[1], dim=1)
    # Only the rows of queries that route differ from head to head.
    allowed = base.repeat(1, q.shape[1], 1, 1).scatter_(2, tokens.expand_as(seen), seen)
    return allowed, regions if ctx.recorder is None else at_queries(regions, tokens, q.shape[2])


def at_queries(regions: Tensor, tokens: Tensor, length: int) -> Tensor:
    """Regions int64 [B, H, T, K] of the queries int64 [B, 1, T, 1] among all `length`; -1 for the others."""
    nothing = regions.new_full((*regions.shape[:2], length, regions.shape[3]), -1)
    return nothing.scatter_(2, tokens.expand_as(regions), regions)


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
