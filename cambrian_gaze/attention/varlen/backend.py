"""`flash_varlen`: FlashAttention's varlen kernels over text, context and the selected regions, merged by log-sum-exp.

The paper's training path. Queries are grouped by the region that they selected, so that nothing is masked: the work of
text queries falls with K. `segments.py` builds the segments, `merge.py` merges them, `blocks.py` holds the kernels:
those of the flash-attn package where it is installed, else torch's own; the log says which. `varlen_reference` is the
same construction over plain torch, on any device and dtype, for verification.

A call of several tokens against a cache is served too: keys are found by index, in whatever order they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.counted import every_region
from cambrian_gaze.attention.record import Counts
from cambrian_gaze.attention.varlen.blocks import PlainBlocks, check_flash_head_size, flash_blocks, flash_refuses
from cambrian_gaze.attention.varlen.merge import BlockOp, Piece, merged_attention
from cambrian_gaze.attention.varlen.segments import RegionKeys, Tokens, causal_pieces, region_piece, sort_key
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import CONTEXT, TEXT, VISUAL, TokenLayout
from cambrian_gaze.gaze.visibility import offered_any


def refuses_plainly(config: GazeConfig, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why varlen segments cannot express this configuration, or None."""
    if config.visual_queries != "causal":
        return f"visual_queries is {config.visual_queries!r}; varlen segments serve 'causal' only"
    return None


def refuses(config: GazeConfig, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why FlashAttention cannot run this configuration on this device and dtype, or None."""
    return refuses_plainly(config, device, dtype) or flash_refuses(device, dtype)


@dataclass(frozen=True)
class _Routing:
    """The queries that route, side by side: N of the batch, at most W of a row."""

    chooser: GazeContext
    """The context of these queries alone, [B, W]."""

    places: Tensor
    """int64 [B, W]: token numbers; a row with fewer than W is filled up with queries that do not route."""

    real: Tensor
    """int64 [N]: b·W + w of the queries that route."""

    rows: Tensor
    """int64 [N]: b·Q + i."""

    keys: RegionKeys

    @classmethod
    def of(cls, ctx: GazeContext) -> _Routing | None:
        """None where no query has a region to choose from."""
        where = offered_any(ctx.layout, ctx.config)
        width = int(where.sum(1).max()) if ctx.layout.num_regions else 0
        if not width:
            return None
        places = (~where).int().argsort(dim=1, stable=True)[:, :width]
        real = where.gather(1, places).flatten().nonzero().flatten()
        rows = places + torch.arange(len(places), device=places.device)[:, None] * where.shape[1]
        chooser = ctx.of_queries(places)
        return cls(chooser, places, real, rows.flatten()[real], RegionKeys.of(ctx.key_layout))

    def take(self, q: Tensor) -> Tensor:
        """[B, H, Q, D] → [B, H, W, D]."""
        return q.gather(2, self.places[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3]))


@dataclass(frozen=True)
class PlainVarlen:
    """The segments that are the same in every layer, and attention over them in plain torch."""

    routed: list[Piece]
    """Causal pieces of layers that route."""

    dense: list[Piece]
    """All pieces of layers that do not."""

    routing: _Routing | None
    """None where no query chooses."""

    @classmethod
    def of(cls, ctx: GazeContext) -> PlainVarlen:
        """From the layouts. Synchronises with the host, a few times per forward call."""
        config, routed, dense, routing = ctx.config, [], [], None
        if not config.is_dense:
            routed = causal_pieces(ctx.layout, ctx.key_layout, config, routes=True)
            routing = _Routing.of(ctx)
        if config.is_dense or config.dense_layers:
            dense = causal_pieces(ctx.layout, ctx.key_layout, config, routes=False)
        return cls(routed, dense, routing)

    def op(self, dim: int) -> BlockOp:
        """What attends within segments, for heads of size D."""
        return PlainBlocks()

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, ctx: GazeContext, layer: int, scaling: float, dropout: float
    ) -> Tensor:
        """Attention of q [B, H, Q, D] over k, v [B, G, S, D]; returns [B, H, Q, D].

        Raises: ValueError for dropout, and for a head size that the kernels do not have.
        """
        op = self.op(q.shape[-1])
        if dropout:
            raise ValueError(f"attention backend {ctx.config.backend!r} has no dropout, got {dropout}")
        batch, heads, length, dim = q.shape
        routes = ctx.config.routes(layer)
        routing = self.routing if routes else None
        pieces = list(self.routed if routes else self.dense)
        regions = None
        if routing is not None:
            regions = routing.chooser.choose(layer, routing.take(q), k, ctx.key_layout.region, scaling)
            pieces += _region_pieces(regions, routing, heads, k.shape[1])
        by_token = (x.transpose(1, 2).reshape(-1, x.shape[1], dim) for x in (q, k, v))
        out, _ = merged_attention(*by_token, pieces, op, scaling)
        if ctx.recorder is not None:
            counts = _count(ctx, pieces, heads, k.shape[1])
            ctx.recorder.record(layer, self._everywhere(ctx, routes, regions), counts)
        return out.view(batch, length, heads, dim).transpose(1, 2)

    def _everywhere(self, ctx: GazeContext, routes: bool, regions: Tensor | None) -> Tensor:
        """The choice of all queries of a layer, from that of those that route."""
        batch, length = ctx.layout.shape
        if not routes:
            return every_region(ctx)
        if regions is None:
            return torch.full((batch, 1, length, 0), -1, device=ctx.layout.role.device)
        places = self.routing.places[:, None, :, None].expand_as(regions)
        everywhere = regions.new_full((*regions.shape[:2], length, regions.shape[3]), -1)
        return everywhere.scatter(2, places, regions)


@dataclass(frozen=True)
class FlashVarlen(PlainVarlen):
    """The same segments, and attention by FlashAttention's kernels."""

    def op(self, dim: int) -> BlockOp:
        check_flash_head_size(dim)
        return flash_blocks()


def _region_pieces(regions: Tensor, routing: _Routing, heads: int, groups: int) -> list[Piece]:
    """Piece C from the choice int64 [B, H or G, W, K], if anything was chosen."""
    chosen = regions.repeat_interleave(heads // regions.shape[1], dim=1).transpose(1, 2).flatten(0, 1)[routing.real]
    piece = region_piece(chosen, routing.rows, routing.real // regions.shape[2], routing.keys, groups)
    return [] if piece is None else [piece]


def _count(ctx: GazeContext, pieces: list[Piece], heads: int, groups: int) -> Counts:
    """Count the keys of the segments that each query was in."""
    queries, keys = ctx.layout, ctx.key_layout
    batch, length = queries.shape
    counts = []
    for role in (VISUAL, CONTEXT, TEXT):
        total = torch.zeros(batch * length, heads, dtype=torch.int64, device=queries.role.device)
        marked = (keys.role == role).flatten()
        for piece in pieces:
            seen = piece.keys_seen(marked.repeat_interleave(groups) if piece.by_head else marked)
            piece.rows(total).index_add_(0, piece.targets, seen[:, None].expand(-1, piece.rows(total).shape[1]))
        counts.append(total.view(batch, length, heads).transpose(1, 2))
    before = _visual_before(queries, keys)
    return Counts(*counts, before, (queries.role == TEXT) & (before > 0))


def _visual_before(queries: TokenLayout, keys: TokenLayout) -> Tensor:
    """int64 [B, Q]: visual keys of the query's sample that do not come after it."""
    visual = Tokens.of(keys, keys.role == VISUAL, keys.sample).key
    key = sort_key(queries, queries.sample)
    return torch.searchsorted(visual, key, right=True) - torch.searchsorted(visual, key >> 32 << 32)
