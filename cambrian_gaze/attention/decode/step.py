"""Decoding: one text query per row over its selected pages, text and context. The work falls with K.

Keys lie region-major in the cache, so that a region is one contiguous block per KV head. Beside the descriptors only
the selected blocks of the visual cache are read. Four ways, one contract:

- `decode_torch`: plain functions of fixed shapes; with gradients, on every device, under `torch.compile` and in a CUDA
  graph. The reference.
- `decode_native`: compiled code on a CPU without gradients, which chooses as well; each page is read once per KV head.
- `decode_cpu`: plain torch on a CPU without gradients, through buffers that are kept. For what `decode_native` does not
  take, and where it was not compiled.
- `decode_triton`: kernels that do the same as `decode_native` on a GPU without gradients, in fixed shapes; where
  `backend` is "triton".
"""

from __future__ import annotations

import torch
from torch import Tensor

from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.counted import every_region
from cambrian_gaze.attention.decode import cpu as decode_cpu
from cambrian_gaze.attention.decode import native as decode_native
from cambrian_gaze.attention.decode import reference as decode_torch
from cambrian_gaze.gaze.descriptors import descriptor_named
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
    if ctx.config.backend == "triton":
        ctx.prepared["limits"] = _triton().limits(ctx.pools, *ctx.layout.region_size.shape, page_seen.device)


def attend(q: Tensor, ctx: GazeContext, layer: int, scaling: float) -> Tensor:
    """Attention of q [B, H, 1, D] over the cache; returns [B, H, 1, D]."""
    pages, prepared = ctx.cache.layers[layer], ctx.prepared
    batch, heads, _, dim = q.shape
    groups = pages.flat_keys.shape[1]
    grouped = q.reshape(batch, groups, heads // groups, dim)
    routes = prepared["chooses"] and ctx.config.routes(layer)
    how = grouped, ctx, layer, routes, scaling
    if decode_cpu.takes(q, pages):
        compiled = prepared["compiled"] and decode_native.takes(grouped)
        out, visual, regions = _in_compiled_code(*how) if compiled else _on_cpu(*how)
    elif ctx.config.backend == "triton" and _triton().takes(grouped, pages):
        out, visual, regions = _in_triton(*how)
    else:
        out, visual, regions = _in_torch(*how)
    if ctx.recorder is not None:
        visual = torch.as_tensor(visual, device=q.device).expand(batch, groups, heads // groups).reshape(batch, heads)
        _record(ctx, layer, visual, every_region(ctx) if regions is None else regions)
    return out.view(batch, heads, 1, dim)


Found = tuple[Tensor, Tensor | int | None, Tensor | None]
"""Output [B, G, n, D]; the slots that entered the softmax, int64 [B, G or 1, n or 1] or one number for all, None where
nobody asks; the regions int64 [B, H or G, 1, K] that were looked at, None for every one."""


def _in_compiled_code(grouped: Tensor, ctx: GazeContext, layer: int, routes: bool, scaling: float) -> Found:
    pages, masks = ctx.cache.layers[layer], ctx.prepared["masks"]
    if routes and ctx.ranks_products:
        how = ctx.pools, _selections(grouped, ctx), scaling
        return decode_native.choose_and_attend(grouped, pages, *masks, *how)
    regions = _choose(grouped, ctx, layer, scaling) if routes else None
    return *decode_native.attend(grouped, pages, *masks, regions, scaling), regions


def _on_cpu(grouped: Tensor, ctx: GazeContext, layer: int, routes: bool, scaling: float) -> Found:
    regions = _choose(grouped, ctx, layer, scaling) if routes else None
    how = regions, ctx.prepared["complete"], scaling, ctx.cache.workspace
    return *decode_cpu.attend(grouped, ctx.cache.layers[layer], *ctx.prepared["masks"], *how), regions


def _in_triton(grouped: Tensor, ctx: GazeContext, layer: int, routes: bool, scaling: float) -> Found:
    """What entered the softmax is counted, and regions are ranked, where somebody asks."""
    pages, seen, triton = ctx.cache.layers[layer], (ctx.prepared["page_seen"], ctx.prepared["flat_seen"]), _triton()
    grouped, selections, regions = grouped.contiguous(), _selections(grouped, ctx), None
    plain = ctx.recorder is None and ctx.ranks_products and triton.chooses(ctx.layout.num_regions, selections)
    if routes and plain:
        most = sum(pool.most for pool in ctx.pools)
        wanted = triton.choose(grouped, pages.descriptors, ctx.prepared["limits"], most, selections)
    else:
        regions = _choose(grouped, ctx, layer, scaling) if routes else None
        wanted = triton.pages_of(regions, grouped.shape[:3], ctx.layout.num_regions, grouped.device)
    visual = None
    if ctx.recorder is not None:
        visual = triton.slots_seen(regions, seen[0], grouped.shape[1], ctx.layout.num_regions)
    return triton.attend(grouped, pages, wanted, *seen, scaling), visual, regions


def _in_torch(grouped: Tensor, ctx: GazeContext, layer: int, routes: bool, scaling: float) -> Found:
    regions = _choose(grouped, ctx, layer, scaling) if routes else None
    seen = ctx.prepared["page_seen"], ctx.prepared["flat_seen"]
    out, allowed = decode_torch.attend(grouped, ctx.cache.layers[layer], *seen, regions, scaling)
    return out, None if ctx.recorder is None else allowed.sum(-1), regions


def _choose(grouped: Tensor, ctx: GazeContext, layer: int, scaling: float) -> Tensor:
    """The regions int64 [B, H or G, 1, K] that the queries [B, G, n, D] look at."""
    needs_keys = descriptor_named(ctx.config.descriptor).needs_keys
    every_key = ctx.cache.layers[layer].page_keys.flatten(2, 3) if needs_keys else None
    return ctx.choose(layer, grouped.flatten(1, 2)[:, :, None], every_key, ctx.cache.page_layout.region, scaling)


def _selections(grouped: Tensor, ctx: GazeContext) -> int:
    """Selections per KV head."""
    return 1 if ctx.config.head_granularity == "kv_group" else grouped.shape[2]


def _triton():
    """Imported where it is used: triton is optional, and reads TRITON_INTERPRET when it is imported."""
    from cambrian_gaze.attention.decode import triton as decode_triton

    return decode_triton


def _record(ctx: GazeContext, layer: int, visual: Tensor, regions: Tensor) -> None:
    """Count the slots and columns that entered the softmax. visual: int64 [B, H]."""
    flat_seen, role = ctx.prepared["flat_seen"], ctx.cache.flat_layout.role
    visual = visual[:, :, None]
    context, text = ((flat_seen & (role == r)).sum(-1)[:, None, None].expand_as(visual) for r in (CONTEXT, TEXT))
    before = ctx.prepared["page_seen"].sum(-1)[:, None]
    ctx.recorder.record(layer, regions, visual, context, text, before, before > 0)
