"""`masked`: `scaled_dot_product_attention` by rows. Exact, on any device and dtype; the default on a CPU, and on
a GPU what `auto` holds the others against.

Rows that see all that stands before them in their sample, as visual queries do, need no mask: they are plain causal
attention, by torch's fastest kernel. Only the others attend under a mask, a bounded number of them at a time, and take
their rows' place. `rows.py` says which rows are which, `masks.py` holds the masks. No tensor has the size Q × S.

Shapes: B rows, H query heads, G KV heads, Q queries, S keys, T queries that choose, K regions of each, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.counted import CountedRows
from cambrian_gaze.attention.masks import Softmax, attend_masked, under_mask
from cambrian_gaze.attention.rows import Band, RowPlan, Segment, UnitRun, plan
from cambrian_gaze.attention.varlen.blocks import flash_blocks, flash_refuses
from cambrian_gaze.attention.varlen.merge import BlockOp, Piece, Segments, merged_attention


@dataclass(frozen=True)
class MaskedAttention:
    """How the rows of a forward call are computed, once for all layers."""

    choosing: RowPlan | None
    """In layers that route."""

    seeing_all: RowPlan | None
    """In layers that do not, and where the budget covers every region."""

    counted: CountedRows | None
    """None where nobody asks."""

    @classmethod
    def of(cls, ctx: GazeContext) -> MaskedAttention:
        """Sort the rows by kind. Synchronises with the device."""
        choosing = seeing_all = None
        routes = ctx.layout.num_regions > 0 and not ctx.config.is_dense
        if routes:
            choosing = plan(ctx, chooses=True)
        keeps_all = routes and choosing.router is not None and choosing.router.keeps_every_region
        if not routes or ctx.config.dense_layers or keeps_all:
            seeing_all = plan(ctx, chooses=False)
        return cls(choosing, seeing_all, CountedRows.of(ctx) if ctx.recorder is not None else None)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, ctx: GazeContext, layer: int, scaling: float, dropout: float
    ) -> Tensor:
        """Attention of q [B, H, Q, D] over k, v [B, G, S, D]; returns [B, H, Q, D]. Rows of padding mean nothing."""
        routes = ctx.layout.num_regions > 0 and ctx.config.routes(layer)
        rows = self.choosing if routes else self.seeing_all
        regions, tokens = None, rows.tokens
        if rows.router is not None:
            whole = rows.router.keeps_every_region
            if not whole or ctx.recorder is not None or ctx.mass is not None or ctx.cache is not None:
                asking = _take(q.detach(), tokens)
                regions = rows.router.choose(layer, asking, k, ctx.key_layout.region, scaling)
            if whole:
                rows = self.seeing_all
        if self.counted is not None:
            self.counted.record(ctx, layer, q.shape[1], regions, tokens)
        softmax = Softmax(scaling, dropout)
        if rows.bands is None:
            return _scattered(q, k, v, rows, regions, softmax)
        return _by_sample(q, k, v, rows, regions, softmax)


def _scattered(q: Tensor, k: Tensor, v: Tensor, rows: RowPlan, regions: Tensor | None, softmax: Softmax) -> Tensor:
    """All rows under masks, keys in any order."""
    scattered, parts = rows.scattered, []
    for masked, tokens, chosen in (
        (scattered.shared, scattered.shared_at, None),
        (scattered.choosing, rows.tokens, regions),
    ):
        if masked is not None:
            parts.append(attend_masked(_take(q, tokens), k, v, masked, chosen, softmax))
    return _take(torch.cat(parts, dim=2), scattered.place)


def _take(q: Tensor, tokens: Tensor) -> Tensor:
    """The rows int64 [B, T] of q [B, H, Q, D]."""
    return q.gather(2, tokens[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3]))


def _by_sample(q: Tensor, k: Tensor, v: Tensor, rows: RowPlan, regions: Tensor | None, softmax: Softmax) -> Tensor:
    op = _varlen(q, rows, softmax.dropout)
    plain = None if op is None else _causal_varlen(q, k, v, rows, op, softmax.scaling)
    sizes = [band.end - band.first for band in rows.bands]
    out = []
    for band, *mine in zip(rows.bands, *(_split(x, sizes, 0) for x in (q, k, v)), strict=True):
        chosen = None if regions is None else regions[band.first : band.end]
        ready = None if plain is None else plain[band.first : band.end]
        out.append(_band(*mine, band, chosen, ready, softmax))
    return out[0] if len(out) == 1 else torch.cat(out)


def _split(x: Tensor, sizes: list[int], dim: int) -> tuple[Tensor, ...]:
    """Parts of x by one node of the graph, so that the backward pass puts their gradients together once."""
    return (x,) if len(sizes) == 1 else x.split(sizes, dim)


def _band(
    q: Tensor, k: Tensor, v: Tensor, band: Band, regions: Tensor | None, plain: Tensor | None, softmax: Softmax
) -> Tensor:
    """Rows of the batch that are alike: their samples, and zeros where there is padding."""
    sizes, samples, end = [], [], 0
    for segment in band.segments:
        if segment.start > end:
            sizes, samples = [*sizes, segment.start - end], [*samples, None]
        sizes, samples = [*sizes, segment.stop - segment.start], [*samples, segment]
        end = segment.stop
    if end < q.shape[2]:
        sizes, samples = [*sizes, q.shape[2] - end], [*samples, None]
    out = []
    for segment, *mine in zip(samples, *(_split(x, sizes, 2) for x in (q, k, v)), strict=True):
        if segment is None:
            out.append(torch.zeros_like(mine[0]))
            continue
        ready = None if plain is None else plain[:, :, segment.start : segment.start + segment.causal]
        out.append(_sample(*mine, segment, regions, ready, softmax))
    return out[0] if len(out) == 1 else torch.cat(out, dim=2)


def _sample(
    q: Tensor, k: Tensor, v: Tensor, segment: Segment, regions: Tensor | None, plain: Tensor | None, softmax: Softmax
) -> Tensor:
    """One sample, tokens in order. plain: the outputs [b, H, causal, D] of its causal pass, where it has been run."""
    n, apart = segment.causal, segment.apart
    if not len(apart):
        return _causal(q, k, v, softmax) if plain is None else plain
    first, rows = _Cut.apply(q, n, apart)
    if plain is None:
        plain = _causal(first, k[:, :, :n], v[:, :, :n], softmax) if n else first
    counts = [sum(run.count * run.context for run in segment.runs)]
    counts += [0 if masked is None else masked.queries.shape[1] for masked in (segment.shared, segment.choosing)]
    of_unit, shared, choosing = rows.split(counts, dim=2)
    parts = []
    if segment.runs:
        parts.append(_of_units(of_unit, k, v, segment.runs, softmax))
    if segment.shared is not None:
        parts.append(attend_masked(shared, k, v, segment.shared, None, softmax))
    if segment.choosing is not None:
        mine = regions[:, :, segment.places]
        parts.append(attend_masked(choosing, k, v, segment.choosing, mine, softmax))
    rows = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    if n == q.shape[2] and not torch.is_grad_enabled():
        return plain.index_copy_(2, apart, rows)
    return _Joined.apply(plain, rows, apart, q.shape[2])


def _causal(q: Tensor, k: Tensor, v: Tensor, softmax: Softmax) -> Tensor:
    return scaled_dot_product_attention(
        q,
        k,
        v,
        is_causal=True,
        dropout_p=softmax.dropout,
        scale=softmax.scaling,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _of_units(q: Tensor, k: Tensor, v: Tensor, runs: tuple[UnitRun, ...], softmax: Softmax) -> Tensor:
    """Context queries [b, H, N, D] of all units of a sample, each over its own unit's keys up to itself."""
    sizes, end = [], 0
    for run in runs:
        sizes += [run.start - end, run.count * run.length]
        end = run.start + run.count * run.length
    sizes.append(k.shape[2] - end)
    keys, values = (x.split(sizes, dim=2)[1::2] for x in (k, v))
    out = []
    queries = q.split([run.count * run.context for run in runs], dim=2)
    for run, mine, unit_k, unit_v in zip(runs, queries, keys, values, strict=True):
        batch = len(q)
        mine, unit_k, unit_v = (
            x.unflatten(2, (run.count, -1)).transpose(1, 2).flatten(0, 1) for x in (mine, unit_k, unit_v)
        )
        seen = torch.ones(run.context, run.length, dtype=torch.bool, device=q.device)
        seen = seen.tril(run.length - run.context)[None, None]
        part = under_mask(mine, unit_k, unit_v, seen, softmax)
        out.append(part.unflatten(0, (batch, run.count)).transpose(1, 2).flatten(2, 3))
    return out[0] if len(out) == 1 else torch.cat(out, dim=2)


def _varlen(q: Tensor, rows: RowPlan, dropout: float) -> BlockOp | None:
    """The varlen kernels, for one causal pass over several samples; None: it is run sample by sample."""
    if q.device.type != "cuda" or dropout or len(rows.samples) < 2 or q.shape[-1] % 8 or q.shape[-1] > 256:
        return None
    return None if flash_refuses(q.device, q.dtype) else flash_blocks()


def _causal_varlen(q: Tensor, k: Tensor, v: Tensor, rows: RowPlan, op: BlockOp, scaling: float) -> Tensor:
    """Causal attention of every sample for itself, [B, H, Q, D]; zeros where there is none."""
    length, device = q.shape[2], q.device
    spans = [
        (b * length + segment.start, segment.causal)
        for band, segment in rows.samples
        for b in range(band.first, band.end)
    ]
    at = torch.cat([torch.arange(start, start + count) for start, count in spans]).to(device)
    ends = torch.tensor([0, *(count for _, count in spans)]).cumsum(0).to(device, torch.int32)
    longest = max(count for _, count in spans)
    slot = torch.arange(len(at), device=device)
    piece = Piece(Segments(ends, ends, longest, longest, causal=True), at, at, at, slot, fresh=True)
    by_token = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    out, _ = merged_attention(*by_token, [piece], op, scaling)
    return out.view(len(q), length, *out.shape[1:]).transpose(1, 2)


class _Cut(torch.autograd.Function):
    """The first n rows of q [b, H, S, D], and the rows `apart`, int64 [N]; where they overlap gradients add up."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, n: int, apart: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(apart)
        ctx.length, ctx.n = q.shape[2], n
        return q[:, :, :n], q.index_select(2, apart)

    @staticmethod
    def backward(ctx: Any, first: Tensor, rows: Tensor) -> tuple[Tensor, None, None]:
        (apart,) = ctx.saved_tensors
        out = rows.new_empty(*rows.shape[:2], ctx.length, rows.shape[3])
        out[:, :, : ctx.n] = first
        out[:, :, ctx.n :] = 0
        return out.index_add_(2, apart, rows), None, None


class _Joined(torch.autograd.Function):
    """Rows [b, H, N, D] in their places int64 [N] among `length`, `plain` [b, H, n, D] in the others."""

    @staticmethod
    def forward(ctx: Any, plain: Tensor, rows: Tensor, apart: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(apart)
        ctx.n = plain.shape[2]
        out = plain.new_empty(*plain.shape[:2], length, plain.shape[3])
        out[:, :, : ctx.n] = plain
        return out.index_copy_(2, apart, rows)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (apart,) = ctx.saved_tensors
        plain = dout[:, :, : ctx.n].index_fill(2, apart[apart < ctx.n], 0)
        return plain, dout.index_select(2, apart), None, None
