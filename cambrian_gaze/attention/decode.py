"""Decoding: one text query per row over its selected pages, text and context. The work falls with K.

Keys lie region-major in the cache, so that a region is one contiguous block per KV head. Beside the descriptors only
the selected blocks of the visual cache are read. Three ways, one contract:

- `decode_torch`: plain functions of fixed shapes; with gradients, on every device, under `torch.compile` and in a CUDA
  graph. The reference.
- `decode_native`: compiled code on a CPU without gradients, which chooses as well; each page is read once per KV head.
- `decode_cpu`: plain torch on a CPU without gradients, through buffers that are kept. For what `decode_native` does not
  take, and where it was not compiled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cambrian_gaze.attention import decode_cpu, decode_native, decode_torch
from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.masked import every_region
from cambrian_gaze.gaze.layout import CONTEXT, TEXT
from cambrian_gaze.gaze.visibility import structure


def prepare(ctx: GazeContext) -> None:
    """Which slots of pages and which text and context columns the query may see, the same in every layer."""
    cache = ctx.cache
    page_seen = structure(ctx.layout, cache.page_layout, ctx.config)[:, 0]
    flat_seen = structure(ctx.layout, cache.flat_layout, ctx.config)[:, 0]
    ctx.prepared["page_seen"], ctx.prepared["flat_seen"] = page_seen, flat_seen
    # Looking at the data is free on a CPU; elsewhere it would wait for the device. What all see needs no mask there.
    on_cpu = page_seen.device.type == "cpu"
    ctx.prepared["masks"] = tuple(None if on_cpu and bool(s.all()) else s for s in (page_seen, flat_seen))
    # Without a recorder nobody asks in which order all regions rank.
    ctx.prepared["chooses"] = ctx.layout.num_regions > 0 and (ctx.recorder is not None or not ctx.keeps_every_region)
    ctx.prepared["complete"] = ctx.chooses_in_full
    ctx.prepared["compiled"] = True  # where it can be; a bench of plain torch says otherwise


def attend(q: Tensor, ctx: GazeContext, layer: int, scaling: float) -> Tensor:
    """Attention of q [B, H, 1, D] over the cache; returns [B, H, 1, D]."""
    pages, prepared = ctx.cache.layers[layer], ctx.prepared
    batch, heads, _, dim = q.shape
    groups = pages.flat_keys.shape[1]
    grouped = q.reshape(batch, groups, heads // groups, dim)
    routes = prepared["chooses"] and ctx.config.routes(layer)
    on_cpu = decode_cpu.takes(q, pages)
    native = on_cpu and prepared["compiled"] and decode_native.takes(grouped)

    if routes and native and ctx.ranks_products:
        selections = 1 if ctx.config.head_granularity == "kv_group" else heads // groups
        how = ctx.pools, selections, scaling
        out, visual, regions = decode_native.choose_and_attend(grouped, pages, *prepared["masks"], *how)
    else:
        regions = _choose(q, ctx, layer, scaling) if routes else None
        if native:
            out, visual = decode_native.attend(grouped, pages, *prepared["masks"], regions, scaling)
        elif on_cpu:
            how = regions, prepared["complete"], scaling, ctx.cache.workspace
            out, visual = decode_cpu.attend(grouped, pages, *prepared["masks"], *how)
        else:
            seen = prepared["page_seen"], prepared["flat_seen"]
            out, allowed = decode_torch.attend(grouped, pages, *seen, regions, scaling)
            visual = allowed.sum(-1)
    if ctx.recorder is not None:
        visual = torch.as_tensor(visual, device=q.device).expand(batch, groups, heads // groups).reshape(batch, heads)
        _record(ctx, layer, visual, every_region(ctx) if regions is None else regions)
    return out.view(batch, heads, 1, dim)


def _choose(q: Tensor, ctx: GazeContext, layer: int, scaling: float) -> Tensor:
    """The regions int64 [B, H or G, 1, K] that the queries look at."""
    every_key = ctx.cache.layers[layer].page_keys.flatten(2, 3) if ctx.config.descriptor == "oracle" else None
    return ctx.choose(layer, q, every_key, ctx.cache.page_layout.region, scaling)


def _record(ctx: GazeContext, layer: int, visual: Tensor, regions: Tensor) -> None:
    """Count the slots and columns that entered the softmax. visual: int64 [B, H]."""
    flat_seen, role = ctx.prepared["flat_seen"], ctx.cache.flat_layout.role
    visual = visual[:, :, None]
    context, text = ((flat_seen & (role == r)).sum(-1)[:, None, None].expand_as(visual) for r in (CONTEXT, TEXT))
    before = ctx.prepared["page_seen"].sum(-1)[:, None]
    ctx.recorder.record(layer, regions, visual, context, text, before, before > 0)
