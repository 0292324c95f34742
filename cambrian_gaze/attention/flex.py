"""`flex`: FlexAttention. Blocks that no query sees are skipped, blocks that every query sees need no mask, and in the
others the mask is computed from the layout and the selection as the kernel goes. On a GPU one of those that `auto`
tries.

The block structure is derived from the layouts once per forward call and is the same in every layer; a layer's
selection is a tensor that the mask function reads, so that nothing is rebuilt or compiled again per layer or step.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.counted import at_queries, count_allowed, every_region
from cambrian_gaze.attention.record import Counts
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import TokenLayout
from cambrian_gaze.gaze.routing import as_mask
from cambrian_gaze.gaze.visibility import (
    Keys,
    Queries,
    key_fields,
    needs_choice,
    query_fields,
    routable,
    sees,
    structure,
)

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(row, head, query, key) → bool, for scalars or anything that broadcasts."""

BLOCK = 128
"""Queries and keys of a block of the mask."""

CHUNK = 16 * BLOCK
"""Queries whose pairs are looked at together while the blocks are derived: bounds the memory to CHUNK·S per row."""

MIN_HEAD_DIM = 16
"""On CUDA; the smallest operand of a Triton dot product."""

CUDA_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
KERNEL_OPTIONS = {"BACKEND": "TRITON"}
"""The same kernel for any number of queries. Left to itself torch takes its decoding kernel for fewer than 128, and has
no tiling of that one where queries times query heads per KV head are more than a block of the mask."""

MAX_RECOMPILES = 64
"""Kernels of a process: one per dtype, head counts and size, rules of visibility, with and without gradients."""


def refuses(config: GazeConfig, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why FlexAttention cannot run here, or None: it takes CUDA in three dtypes, and a CPU in any, there without
    gradients (`Backend.forward_only`)."""
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"FlexAttention is used on cuda and cpu, not on {device.type}"
    if dtype not in CUDA_DTYPES:
        return f"FlexAttention on cuda takes {', '.join(map(str, CUDA_DTYPES))}, not {dtype}"
    if importlib.util.find_spec("triton") is None:
        return "FlexAttention on cuda needs triton, which is not installed"
    return None


@dataclass(frozen=True)
class FlexRouting:
    """What layers that route need."""

    blocks: dict[str, Tensor]
    """Of `block_tensors`."""

    router: GazeContext
    """The context of the T queries that choose."""

    rows: Tensor
    """int64 [B, T]: which these are."""

    mask: Callable[[Tensor, Tensor], MaskMod]
    """From what they selected, bool [B, H or G, T, R], and int64 [H], which selection is a head's."""


@dataclass(frozen=True)
class FlexBlocks:
    """Blocks and mask functions, the same in every layer."""

    seen: MaskMod
    """Of layers that do not route."""

    dense_blocks: dict[str, Tensor] | None
    routing: FlexRouting | None

    @classmethod
    def of(cls, ctx: GazeContext) -> FlexBlocks:
        """From the layouts."""
        q, k, config = ctx.layout, ctx.key_layout, ctx.config
        queries = Queries(*map(_small, query_fields(q, config)))
        keys = Keys(*map(_small, key_fields(q, k)))

        def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            at_query, at_key = Queries(*(x[b, i] for x in queries)), Keys(*(x[b, j] for x in keys))
            return sees(at_query, at_key, config)

        routes = q.num_regions > 0 and not config.is_dense
        dense_blocks = None
        if not routes or config.dense_layers:
            dense_blocks = block_tensors(q, k, config, routing=False)
        return cls(seen, dense_blocks, _routing(ctx, queries, keys) if routes else None)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, ctx: GazeContext, layer: int, scaling: float, dropout: float
    ) -> Tensor:
        """Attention of q [B, H, Q, D] over k, v [B, G, S, D]; returns [B, H, Q, D].

        Raises: ValueError for dropout, and for heads that are too small.
        """
        if dropout > 0:
            raise ValueError(
                f"attention backend 'flex' has no attention dropout, but {dropout} was asked for; set it to 0"
            )
        if q.device.type == "cuda" and q.shape[-1] < MIN_HEAD_DIM:
            raise ValueError(
                f"attention backend 'flex' needs heads of at least {MIN_HEAD_DIM} on cuda, these have {q.shape[-1]}; "
                "use backend 'masked'"
            )
        routing = self.routing if ctx.config.routes(layer) else None
        if routing is not None:
            rows = routing.rows[:, None, :, None]
            asking = q.detach().gather(2, rows.expand(-1, q.shape[1], -1, q.shape[3]))
            regions = routing.router.choose(layer, asking, k, ctx.key_layout.region, scaling)
            selected = as_mask(regions, ctx.layout.num_regions)
            group = torch.arange(q.shape[1], device=q.device) // (q.shape[1] // selected.shape[1])
            mask, blocks = routing.mask(selected, group), routing.blocks
            if ctx.recorder is not None:
                regions = at_queries(regions, routing.rows, q.shape[2])
        else:
            regions, mask, blocks = every_region(ctx), self.seen, self.dense_blocks
        if ctx.recorder is not None:
            ctx.recorder.record(layer, regions, _count(ctx, mask, q.shape[1]))
        if not torch.is_grad_enabled():  # on a CPU FlexAttention refuses what requires gradients, wanted or not
            q, k, v = q.detach(), k.detach(), v.detach()
        seq_lengths = (q.shape[2], k.shape[2])
        block_mask = BlockMask(seq_lengths=seq_lengths, BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=mask, **blocks)
        run = _compiled(q.device.type)
        grouped = q.shape[1] != k.shape[1]
        return run(q, k, v, block_mask=block_mask, scale=scaling, enable_gqa=grouped, kernel_options=KERNEL_OPTIONS)


def _routing(ctx: GazeContext, queries: Queries, keys: Keys) -> FlexRouting:
    q, k, config = ctx.layout, ctx.key_layout, ctx.config
    blocks = block_tensors(q, k, config, routing=True)
    router, rows = ctx.of_routing_queries()
    places = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
    place = torch.zeros_like(q.index).scatter(1, rows, places).int()
    region = _small(k.region.clamp(min=0))

    def mask(selected: Tensor, group: Tensor) -> MaskMod:
        def seen_and_chosen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            at_query, at_key = Queries(*(x[b, i] for x in queries)), Keys(*(x[b, j] for x in keys))
            chosen = selected[b, group[h], place[b, i], region[b, j]]
            return sees(at_query, at_key, config) & (chosen | ~needs_choice(at_query, at_key))

        return seen_and_chosen

    return FlexRouting(blocks, router, rows, mask)


@cache
def _compiled(device_type: str) -> Callable[..., Tensor]:
    """FlexAttention, compiled for any shape. It raises where torch cannot compile it: without compilation
    FlexAttention would hold every score in memory. On a CPU, where it only serves tests, it is traced and not compiled.

    One compilation serves all lengths; another follows where sizes that have nothing to do with each other, such as
    heads and blocks, were equal by chance.
    """
    options: dict[str, Any] = {"backend": "inductor" if device_type == "cuda" else "eager"}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        return torch.compile(flex_attention, dynamic=True, fullgraph=True, recompile_limit=MAX_RECOMPILES, **options)
    compiled = torch.compile(flex_attention, dynamic=True, fullgraph=True, **options)

    def run(*args: Any, **kwargs: Any) -> Tensor:  # before torch 2.13
        with torch._dynamo.config.patch(recompile_limit=MAX_RECOMPILES):
            return compiled(*args, **kwargs)

    return run


def block_tensors(q: TokenLayout, k: TokenLayout, config: GazeConfig, routing: bool) -> dict[str, Tensor]:
    """Which blocks of pairs are partly and which are wholly visible, for `BlockMask`. No synchronisation.

    Args:
        routing: whether a pair that needs its region selected may turn out invisible.
    """
    partial, full = [], []
    for start in range(0, q.shape[1], CHUNK):
        rows = q.tokens(slice(start, start + CHUNK))
        seen = structure(rows, k, config)
        always = seen & ~routable(rows, k, config) if routing else seen
        some, every = _tiles(seen).any(dim=(-3, -1)), _tiles(always).all(dim=(-3, -1))
        partial.append(some & ~every)
        full.append(every)
    tensors: dict[str, Tensor] = {}
    for prefix, parts in (("", partial), ("full_", full)):
        blocks = torch.cat(parts, dim=1)[:, None]
        for side, matrix in (("kv", blocks), ("q", blocks.transpose(-1, -2))):
            order = matrix.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
            tensors[f"{prefix}{side}_num_blocks"] = matrix.sum(-1, dtype=torch.int32)
            tensors[f"{prefix}{side}_indices"] = order.to(torch.int32).contiguous()
    return tensors


def _tiles(pairs: Tensor) -> Tensor:
    """bool [B, Q, S] as [B, blocks, BLOCK, blocks, BLOCK]; what is missing of the last blocks is False."""
    queries, keys = (-n % BLOCK for n in pairs.shape[1:])
    pairs = torch.nn.functional.pad(pairs, (0, keys, 0, queries))
    return pairs.unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK))


def _small(x: Tensor) -> Tensor:
    """Integers as int32: the kernel holds one per query and key of a block. `EMPTY_SLOT` stays the largest."""
    return x if x.dtype == torch.bool else x.long().clamp(max=torch.iinfo(torch.int32).max).int()


def _count(ctx: GazeContext, mask: MaskMod, heads: int) -> Counts:
    """Count the pairs that the mask function lets through, some queries at a time."""
    keys, queries = ctx.key_layout, ctx.layout
    device = queries.role.device
    batch, length = queries.shape
    b, h, j = (torch.arange(n, device=device) for n in (batch, heads, keys.shape[1]))
    blocks = []
    for start in range(0, length, BLOCK):
        i = torch.arange(start, min(start + BLOCK, length), device=device)
        allowed = mask(b[:, None, None, None], h[:, None, None], i[:, None], j).expand(-1, heads, -1, -1)
        blocks.append(count_allowed(allowed, queries.tokens(slice(start, start + BLOCK)), keys, heads))
    return Counts.of_blocks(blocks)
