"""Decoding: one text query per row over its selected pages, text and context. The work falls with K.

Keys lie region-major in the cache, so that a region is one contiguous block per KV head. Beside the descriptors only
the selected blocks of the visual cache are read. Two ways, one contract:

- `decode_torch`: plain functions of fixed shapes; with gradients, on every device, under `torch.compile` and in a CUDA
  graph. The reference.
- `decode_cpu`: the same numbers on a CPU without gradients, through buffers that are kept, each page read once per KV
  head. Where most pages are wanted anyway it reads them in place (`decode_cpu.READ_ALL_FROM`).
"""

from __future__ import annotations

from torch import Tensor

from cambrian_gaze.attention import decode_cpu, decode_torch
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
    # Looking at the data is free on a CPU; elsewhere it would wait for the device.
    on_cpu = page_seen.device.type == "cpu"
    ctx.prepared["all_seen"] = on_cpu and bool(page_seen.all()), on_cpu and bool(flat_seen.all())


def attend(q: Tensor, ctx: GazeContext, layer: int, scaling: float) -> Tensor:
    """Attention of q [B, H, 1, D] over the cache; returns [B, H, 1, D]."""
    pages = ctx.cache.layers[layer]
    batch, heads, _, dim = q.shape
    groups, num_regions = pages.flat_keys.shape[1], ctx.layout.num_regions
    regions = None
    # Without a recorder nobody asks in which order all regions rank.
    if num_regions and ctx.config.routes(layer) and (ctx.recorder is not None or not ctx.keeps_every_region):
        every_key = pages.page_keys.flatten(2, 3) if ctx.config.descriptor == "oracle" else None
        regions = ctx.choose(layer, q, every_key, ctx.cache.page_layout.region, scaling)

    grouped = q.reshape(batch, groups, heads // groups, dim)
    seen = ctx.prepared["page_seen"], ctx.prepared["flat_seen"]
    if decode_cpu.takes(q, pages):
        # What every query may see needs no mask.
        page_seen, flat_seen = (None if all_ else s for s, all_ in zip(seen, ctx.prepared["all_seen"], strict=True))
        out, allowed = decode_cpu.attend(grouped, pages, page_seen, flat_seen, regions, scaling, ctx.cache.workspace)
    else:
        out, allowed = decode_torch.attend(grouped, pages, *seen, regions, scaling)
    if ctx.recorder is not None:
        visual = allowed.flatten(3).sum(-1).expand(batch, groups, heads // groups).reshape(batch, heads)
        _record(ctx, layer, visual, every_region(ctx) if regions is None else regions)
    return out.view(batch, heads, 1, dim)


def _record(ctx: GazeContext, layer: int, visual: Tensor, regions: Tensor) -> None:
    """Count the slots and columns that entered the softmax. visual: int64 [B, H]."""
    flat_seen, role = ctx.prepared["flat_seen"], ctx.cache.flat_layout.role
    visual = visual[:, :, None]
    context, text = ((flat_seen & (role == r)).sum(-1)[:, None, None].expand_as(visual) for r in (CONTEXT, TEXT))
    before = ctx.prepared["page_seen"].sum(-1)[:, None]
    ctx.recorder.record(layer, regions, visual, context, text, before, before > 0)
