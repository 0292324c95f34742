"""A decoding step after a ragged prefill, and the same through the reference."""

import dataclasses

import pytest
import torch

from cambrian_gaze.attention import BACKENDS, GazeContext
from cambrian_gaze.attention.backend import REFERENCE
from cambrian_gaze.attention.decode import reference as decode_torch
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.models.cache.cache import GazeCache
from tests._layouts import build

DIM, GROUPS = 16, 2
GRANULARITY = pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
ROWS = [
    [("text", (2,)), ("image", (1, 7, 6)), ("text", (3,)), ("image", (1, 6, 6)), ("text", (2,))],
    [("text", (1,)), ("image", (1, 4, 4)), ("text", (4,))],
    [("text", (5,))],
]


def step(granularity, heads=8, dtype=torch.float32, rows=ROWS, seed=0, **options):
    """(queries [B, H, 1, D], context) of a step after a ragged prefill."""
    options = {"image": RegionBudget((1, 2, 2), top_k=2)} | options
    config = GazeConfig(num_context_tokens=2, head_granularity=granularity, **options)
    layout = build([[row] for row in rows], config, left=True).layout()
    generator = torch.Generator().manual_seed(seed)
    shapes = [(len(rows), n, layout.shape[1], DIM) for n in (heads, GROUPS, GROUPS)]
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    cache = GazeCache(config)
    cut = layout.shape[1] - 1
    for part in (slice(0, cut), slice(cut, None)):
        cache.extend(layout.tokens(part))
        cache.update(k[:, :, part], v[:, :, part], 0)
    last = layout.tokens(slice(cut, None))
    ctx = GazeContext(config, last, last, cache, reads_cache=True, is_step=True)
    return q[:, :, cut:], prepared(ctx)


def prepared(ctx):
    """The context, as its backend prepares a step."""
    backend = REFERENCE if ctx.config.backend == "auto" else ctx.config.backend
    ctx.prepared = BACKENDS[backend].decode(ctx)
    return ctx


def decode(q, ctx):
    """The step's attention in layer 0."""
    return ctx.prepared.attend(q, None, None, ctx, 0, 0.25)


def reference(q, ctx):
    """Through `decode_torch` alone."""
    pages = ctx.cache.layers[0]
    routes = ctx.config.routes(0)
    every_key = pages.page_keys.flatten(2, 3)
    regions = ctx.choose(0, q, every_key, ctx.cache.page_layout.region, 0.25) if routes else None
    grouped = q.reshape(len(q), GROUPS, -1, DIM)
    out, allowed = decode_torch.attend(grouped, pages, ctx.prepared.seen, regions, 0.25)
    return out.view(q.shape), regions, allowed.sum(-1).view(len(q), -1)


def moved(q, ctx, device):
    """The same step on another device."""
    layer = ctx.cache.layers[0]
    for store in layer.stores.values():
        store.data = store.data.to(device)
    for name in ("descriptors", "_text_context_keys", "_text_context_values"):
        setattr(layer, name, getattr(layer, name).to(device))
    for name in ("page_layout", "text_context_layout"):
        setattr(ctx.cache, name, getattr(ctx.cache, name).to(torch.device(device)))
    layout = ctx.layout.to(torch.device(device))
    return q.to(device), prepared(dataclasses.replace(ctx, layout=layout, key_layout=layout))
