"""Decoding: one text query per row over its selected pages, text and context. The work falls with K.

Keys lie region-major in the cache, so that a region is one contiguous block per KV head. The selected blocks are
gathered; nothing else of the visual cache is read but the descriptors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cambrian_gaze.attention.context import GazeContext, LayerPages
from cambrian_gaze.attention.masked import every_region
from cambrian_gaze.gaze.layout import CONTEXT, TEXT
from cambrian_gaze.gaze.visibility import structure


def prepare(ctx: GazeContext) -> None:
    """Which slots of pages and which text and context columns the query may see, the same in every layer."""
    cache = ctx.cache
    ctx.prepared["page_seen"] = structure(ctx.layout, cache.page_layout, ctx.config)[:, 0]
    ctx.prepared["flat_seen"] = structure(ctx.layout, cache.flat_layout, ctx.config)[:, 0]


def attend(q: Tensor, ctx: GazeContext, layer: int, scaling: float) -> Tensor:
    """Attention of q [B, H, 1, D] over the cache; returns [B, H, 1, D]."""
    pages = ctx.cache.layers[layer]
    batch, heads, _, dim = q.shape
    groups, num_regions = pages.flat_keys.shape[1], ctx.layout.num_regions
    page_seen, flat_seen = ctx.prepared["page_seen"], ctx.prepared["flat_seen"]
    grouped = q.reshape(batch, groups, heads // groups, dim)

    text = grouped @ pages.flat_keys.transpose(-1, -2) * scaling
    text = text.masked_fill(~flat_seen[:, None, None, :], -torch.inf)
    if num_regions and ctx.config.routes(layer):
        every_key = pages.page_keys.flatten(2, 3) if ctx.config.descriptor == "oracle" else None
        regions = ctx.choose(layer, q, every_key, ctx.cache.page_layout.region, scaling)
        keys, values, seen = _gather(pages, page_seen, regions)
    else:
        regions = every_region(ctx)
        keys, values = pages.page_keys.flatten(2, 3)[:, :, None], pages.page_values.flatten(2, 3)[:, :, None]
        seen = page_seen[:, None, None, :]
    split = keys.shape[2] > 1
    rows = grouped[:, :, :, None] if split else grouped[:, :, None]
    visual = (rows @ keys.transpose(-1, -2) * scaling).view(batch, groups, heads // groups, -1)
    seen = seen.expand_as(visual)
    visual = visual.masked_fill(~seen, -torch.inf)

    weight = torch.cat([visual, text], dim=-1).float().softmax(-1).to(q.dtype)
    on_visual, on_text = weight.split([visual.shape[-1], text.shape[-1]], dim=-1)
    on_visual = on_visual[:, :, :, None] if split else on_visual[:, :, None]
    out = (on_visual @ values).reshape(grouped.shape) + on_text @ pages.flat_values
    if ctx.recorder is not None:
        _record(ctx, layer, seen.reshape(batch, heads, -1), regions)
    return out.view(batch, heads, 1, dim)


def _gather(pages: LayerPages, seen: Tensor, regions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The selected pages.

    Args:
        seen: bool [B, R·m]; regions: int64 [B, H or G, 1, K], -1 for none.

    Returns: keys and values [B, G, H/G or 1, K·m, D], seen bool [B, G, H/G or 1, K·m].
    """
    batch, groups = regions.shape[0], pages.flat_keys.shape[1]
    chosen = regions.view(batch, groups, -1)
    keys, values = pages.gather_pages(chosen)
    slots, num_regions = keys.shape[3], seen.shape[1] // keys.shape[3]
    shape = (batch, groups, regions.shape[1] // groups, regions.shape[3] * slots)
    row = torch.arange(batch, device=seen.device).view(batch, 1, 1) * num_regions
    at = (chosen.clamp(min=0) + row).flatten()
    seen = seen.view(-1, slots).index_select(0, at).view(*chosen.shape, slots)
    seen = (seen & (chosen >= 0)[..., None]).view(shape)
    return keys.view(*shape, keys.shape[-1]), values.view(*shape, values.shape[-1]), seen


def _record(ctx: GazeContext, layer: int, visual: Tensor, regions: Tensor) -> None:
    """Count the slots and columns that entered the softmax. visual: bool [B, H, K·m]."""
    flat_seen, role = ctx.prepared["flat_seen"], ctx.cache.flat_layout.role
    visual = visual.sum(-1)[:, :, None]
    context, text = ((flat_seen & (role == r)).sum(-1)[:, None, None].expand_as(visual) for r in (CONTEXT, TEXT))
    before = ctx.prepared["page_seen"].sum(-1)[:, None]
    ctx.recorder.record(layer, regions, visual, context, text, before, before > 0)
