"""Partial attentions merged exactly by log-sum-exp, with exact gradients.

The keys of a query are split over pieces. Each piece gives a partial output and the log-sum-exp (LSE) of its logits,
and the merged output is their average weighted by exp(LSE - merged LSE). FlashAttention drops the gradient of the LSE
that it returns, so that merging by ordinary autograd gives wrong dq and dk. Here one `autograd.Function` spans all
pieces, and each piece's backward gets the *merged* output and LSE: exp(s - LSE) is then the true probability and
rowsum(dout · out) the true delta (FlashAttention-2, arXiv 2307.08691, algorithm 2), so that the pieces'
gradients add up to those of attention over all keys.

Legend: T query tokens, S key tokens, H query heads, G KV heads, D head size; Tq, Tk rows of one piece's block call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Segments:
    """Which rows of a block call see which, as in FlashAttention's varlen functions."""

    cu_q: Tensor
    """int32 [N+1]: segment n holds query rows cu_q[n] … cu_q[n+1]-1."""

    cu_k: Tensor
    """int32 [N+1]: and key rows cu_k[n] … cu_k[n+1]-1."""

    max_q: int
    """At least the query rows of the longest segment."""

    max_k: int
    """At least the key rows of the longest segment."""

    causal: bool
    """The last query of a segment sees all its keys, the one before all but the last, and so on; else all see all."""

    def seen(self, rows: int) -> tuple[Tensor, Tensor]:
        """First key and end of the keys that each of `rows` query rows sees: int64 [rows], int64 [rows]."""
        row = torch.arange(rows, device=self.cu_q.device)
        cu_q, cu_k = self.cu_q.long(), self.cu_k.long()
        number = torch.searchsorted(cu_q, row, right=True) - 1
        end = cu_k[number + 1]
        if self.causal:
            end = end - (cu_q[number + 1] - 1 - row)
        return cu_k[number], end


class MergedGradient(NamedTuple):
    """What a block's backward pass is given: of attention over more keys than the block's own."""

    dout: Tensor
    """[Tq, H, D]."""
    out: Tensor
    """[Tq, H, D]."""
    lse: Tensor
    """[Tq, H]."""


class BlockOp(Protocol):
    """Attention of query rows over key rows of the same segment. Implementations are in `blocks.py`."""

    name: str

    def forward(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scaling: float) -> tuple[Tensor, Tensor]:
        """q [Tq, H, D], k and v [Tk, G, D] → out [Tq, H, D] and its LSE [Tq, H] (fp32 or wider), -inf without keys."""

    def backward(
        self, merged: MergedGradient, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scaling: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """dq, dk, dv of these rows.

        A row with lse = +inf has probability 0 everywhere, and passes no gradient.
        """


@dataclass(frozen=True)
class Piece:
    """One block call, and where its rows belong. A key row occurs at most once, so that gradients need no atomics."""

    segments: Segments

    q_rows: Tensor
    """int64 [Tq]: rows of q [T, H, D], or of q [T·H, 1, D] with `by_head`."""

    k_rows: Tensor
    """int64 [Tk], distinct: rows of k and v [S, G, D], or of [S·G, 1, D] with `by_head`."""

    targets: Tensor
    """int64 [n], distinct: rows of the result that this piece adds keys to."""

    slot: Tensor
    """int64 [Tq]: place of each query row in a table [n, fold]; n·fold where the row only fills a causal segment."""

    fold: int = 1
    """Partial results per target."""

    by_head: bool = False
    """Whether rows are (token, head) pairs, each head in segments of its own, rather than tokens with all their heads.
    KV heads are not repeated: the query heads that share one are further query rows of its segments."""

    fresh: bool = False
    """No piece before this one has these targets: results are copied, not merged."""

    def rows(self, x: Tensor) -> Tensor:
        """x [T, H, …] as the rows that this piece numbers."""
        return x.flatten(0, 1).unsqueeze(1) if self.by_head else x

    def spread(self, x: Tensor, fill: float) -> Tensor:
        """[Tq, …] → [n, fold, …], `fill` where there is nothing."""
        size = len(self.targets) * self.fold
        table = x.new_full((size + 1, *x.shape[1:]), fill)
        table[self.slot] = x
        return table[:size].view(len(self.targets), self.fold, *x.shape[1:])

    def keys_seen(self, counted: Tensor) -> Tensor:
        """How many of the keys that bool [S·G or S] marks (as `k_rows` numbers them) each target sees: int64 [n]."""
        marks = counted[self.k_rows].long().cumsum(0)
        marks = torch.cat([marks.new_zeros(1), marks])
        first, end = self.segments.seen(len(self.q_rows))
        return self.spread(marks[end] - marks[first], 0).sum(1)


def merged_attention(
    q: Tensor, k: Tensor, v: Tensor, pieces: list[Piece], op: BlockOp, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attention over the union of the pieces' keys, differentiable in q, k and v (once).

    Args:
        q: [T, H, D]; k, v: [S, G, D].

    Returns: out [T, H, D], 0 for rows that no piece has; and its LSE [T, H], which carries no gradient.
    """
    return _Merged.apply(q.contiguous(), k.contiguous(), v.contiguous(), pieces, op, scaling)


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, pieces, op, scaling):
        out = torch.zeros_like(q)
        lse = q.new_full(q.shape[:2], -torch.inf, dtype=_wide(q))
        for piece in pieces:
            part = op.forward(*_inputs(piece, q, k, v), piece.segments, scaling)
            _absorb(piece.rows(out), piece.rows(lse), piece, *part)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.pieces, ctx.op, ctx.scaling = pieces, op, scaling
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, _):
        q, k, v, out, lse = ctx.saved_tensors
        dout = dout.contiguous()
        grads = [torch.zeros_like(x, dtype=_wide(x)) for x in (q, k, v)]
        for piece in ctx.pieces:
            filler = piece.slot == len(piece.targets) * piece.fold
            part_dout, part_out, part_lse = (piece.rows(x)[piece.q_rows] for x in (dout, out, lse))
            part_dout = part_dout.masked_fill(filler[:, None, None], 0.0)
            part_lse = part_lse.masked_fill(filler[:, None] | part_lse.isneginf(), torch.inf)
            merged = MergedGradient(part_dout, part_out, part_lse)
            dq, dk, dv = ctx.op.backward(merged, *_inputs(piece, q, k, v), piece.segments, ctx.scaling)
            wide = grads[0].dtype
            piece.rows(grads[0]).index_add_(0, piece.targets, piece.spread(dq.to(wide), 0.0).sum(1))
            piece.rows(grads[1]).index_add_(0, piece.k_rows, dk.to(wide))
            piece.rows(grads[2]).index_add_(0, piece.k_rows, dv.to(wide))
        return *(g.to(x.dtype) for g, x in zip(grads, (q, k, v), strict=True)), None, None, None


def _wide(x: Tensor) -> torch.dtype:
    """The type of sums: fp32, or fp64 for fp64."""
    return torch.promote_types(x.dtype, torch.float32)


def _inputs(piece: Piece, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return piece.rows(q)[piece.q_rows], piece.rows(k)[piece.k_rows], piece.rows(v)[piece.k_rows]


def _absorb(out: Tensor, lse: Tensor, piece: Piece, part: Tensor, part_lse: Tensor) -> None:
    """Merge a piece's partial results into out [T, H, D] and lse [T, H] (or [T·H, 1, …]), in place."""
    parts, logs = piece.spread(part, 0.0), piece.spread(part_lse, -torch.inf)
    if piece.fresh and piece.fold == 1:
        out[piece.targets], lse[piece.targets] = parts[:, 0], logs[:, 0]
        return
    old = lse[piece.targets]
    total = torch.cat([old[:, None], logs], dim=1).logsumexp(1)
    base = total.masked_fill(total.isneginf(), 0.0)  # a target without any key so far
    merged = (old - base).exp()[..., None] * out[piece.targets]
    merged = merged + ((logs - base[:, None]).exp()[..., None] * parts).sum(1)
    out[piece.targets], lse[piece.targets] = merged.to(out.dtype), total
