"""Who may see whom (`gaze/visibility.py`) as varlen segments: the pieces that `merge.py` puts together.

A. Causal attention over the whole sequence, for visual queries, and for text queries that do not route.
B. Causal attention over text and context, for text queries that route; and each unit's context queries over their unit.
C. Text queries over their selected regions, one segment per (row, KV head, region) that some query selected.

Keys may be in any order (a cache keeps them region-major) and queries may be the last part of a sequence only: segments
are sorted by `TokenLayout.index`, and a segment's last query is its last key. No segment is ever empty.

Legend: B rows, Q query tokens and S key tokens of a row, H query heads, G KV heads, R regions, K selected,
N routing queries of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cambrian_gaze.attention.varlen.merge import Piece, Segments
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import CONTEXT, PAD, TEXT, VISUAL, TokenLayout
from cambrian_gaze.gaze.visibility import routing_queries


@dataclass(frozen=True)
class Tokens:
    """Some tokens of a batch, sorted by (group, index). A group is what shares a causal segment: a sample or a unit."""

    rows: Tensor
    """int64 [n]: b·S + s."""

    key: Tensor
    """int64 [n], ascending: `sort_key`."""

    @classmethod
    def of(cls, layout: TokenLayout, where: Tensor, group: Tensor) -> Tokens:
        """The tokens at bool [B, S], grouped by int64 [B, S], not negative there, of the row."""
        rows = where.flatten().nonzero().flatten()
        key, order = sort_key(layout, group).flatten()[rows].sort()
        return cls(rows[order], key)


def sort_key(layout: TokenLayout, group: Tensor) -> Tensor:
    """int64 [B, S] that sorts tokens by (row, group of the row, index), for groups below 2^20."""
    batch = torch.arange(len(group), device=group.device)[:, None]
    return (batch << 20 | group) << 32 | layout.index


def causal_pieces(q: TokenLayout, k: TokenLayout, config: GazeConfig, routes: bool) -> list[Piece]:
    """Pieces A and B (see the module) of a layer that routes, or of one that does not.

    Args:
        q, k: layouts of queries [B, Q] and keys [B, S]; k holds every token of q, and none that comes later.
    """
    text, visual, context = (q.role == role for role in (TEXT, VISUAL, CONTEXT))
    routed = routing_queries(q, config) if routes else torch.zeros_like(text)
    dense = text & ~routed
    nobody = torch.zeros_like(text)
    full = (dense if config.context_visible else nobody) | (visual if config.visual_sees_context else nobody)
    bare = (dense | visual) & ~full
    skip = () if config.context_visible else (CONTEXT,)
    pieces = [
        _causal(q, k, full, (PAD,)),
        _causal(q, k, bare, (PAD, CONTEXT)),
        _causal(q, k, text & routed, (PAD, VISUAL, *skip)),
        _causal(q, k, context, (PAD, TEXT), by_unit=True),
    ]
    return [piece for piece in pieces if piece is not None]


def _causal(
    q: TokenLayout, k: TokenLayout, wanted: Tensor, without: tuple[int, ...], by_unit: bool = False
) -> Piece | None:
    """Causal attention of the queries bool [B, Q] over the keys of all roles but `without`, in their sample or unit."""

    def tokens(layout: TokenLayout, where: Tensor) -> Tokens:
        for role in without:
            where = where & (layout.role != role)
        return Tokens.of(layout, where, layout.unit if by_unit else layout.sample)

    targets = tokens(q, wanted)
    if not len(targets.rows):
        return None
    queries, keys = (tokens(layout, torch.ones_like(layout.routed)) for layout in (q, k))
    group, count = (targets.key >> 32).unique_consecutive(return_counts=True)
    stop = count.cumsum(0)
    first, last = targets.key[stop - count], targets.key[stop - 1]
    # Between the first and the last query wanted, a segment holds every token: causality is a matter of counting.
    q_start = torch.searchsorted(queries.key, first)
    q_count = torch.searchsorted(queries.key, last, right=True) - q_start
    k_start = torch.searchsorted(keys.key, group << 32)
    k_count = torch.searchsorted(keys.key, last, right=True) - k_start
    max_q, max_k, total_q, total_k = torch.stack([q_count.max(), k_count.max(), q_count.sum(), k_count.sum()]).tolist()
    at = _ranges(q_start, q_count, total_q)
    place = torch.searchsorted(targets.key, queries.key[at]).clamp(max=len(targets.key) - 1)
    return Piece(
        segments=Segments(_cumulative(q_count), _cumulative(k_count), max_q, max_k, causal=True),
        q_rows=queries.rows[at],
        k_rows=keys.rows[_ranges(k_start, k_count, total_k)],
        targets=targets.rows,
        slot=place.where(targets.key[place] == queries.key[at], len(targets.key)),
        fresh=True,
    )


@dataclass(frozen=True)
class RegionKeys:
    """The keys in region-major order, the same in every layer."""

    rows: Tensor
    """int64 [n]: b·S + s of the visual keys, by (row, region)."""

    start: Tensor
    """int64 [B·R]: first place of each region in `rows`."""

    count: Tensor
    """int64 [B·R]: tokens of each region so far."""

    num_regions: int
    """R."""

    longest: int
    """Tokens of the largest region."""

    @classmethod
    def of(cls, k: TokenLayout) -> RegionKeys:
        """k: layout of the keys [B, S], with R > 0 regions."""
        batch = torch.arange(k.shape[0], device=k.role.device)[:, None]
        rows = ((k.role == VISUAL) & (k.region >= 0)).flatten().nonzero().flatten()
        region = (batch * k.num_regions + k.region).flatten()[rows]
        region, order = region.sort(stable=True)
        bounds = torch.searchsorted(region, torch.arange(len(batch) * k.num_regions + 1, device=region.device))
        count = bounds.diff()
        return cls(rows[order], bounds[:-1], count, k.num_regions, int(count.max()))


def region_piece(
    regions: Tensor, query_rows: Tensor, query_batch: Tensor, keys: RegionKeys, groups: int
) -> Piece | None:
    """Piece C (see the module). One host synchronisation, for the totals.

    Args:
        regions: int64 [N, H, K], the distinct regions that each query selects, -1 for none.
        query_rows: int64 [N], b·Q + i of each query; query_batch: int64 [N], its b.
        groups: G.
    """
    heads, most = regions.shape[1:]
    share = torch.arange(heads, device=regions.device) // (heads // groups)
    nothing = len(keys.start) * groups
    number = ((query_batch[:, None] * groups + share) * keys.num_regions)[:, :, None] + regions
    number, order = number.where(regions >= 0, nothing).flatten().sort(stable=True)
    bounds = torch.searchsorted(number, torch.arange(nothing + 1, device=regions.device))
    q_count, used = bounds.diff(), bounds.diff() > 0
    start, k_count = (
        x.view(-1, 1, keys.num_regions).expand(-1, groups, -1).flatten() for x in (keys.start, keys.count)
    )
    totals = torch.stack([bounds[-1], used.sum(), q_count.max(), (k_count * used).sum()])
    total_q, segments, max_q, total_k = totals.tolist()
    if not total_q:
        return None
    chosen = (~used).int().argsort(stable=True)[:segments]
    order, q_count, k_count = order[:total_q], q_count[chosen], k_count[chosen]
    group = (chosen // keys.num_regions % groups).repeat_interleave(k_count, output_size=total_k)
    heads_of = torch.arange(heads, device=regions.device)
    return Piece(
        segments=Segments(_cumulative(q_count), _cumulative(k_count), max_q, keys.longest, causal=False),
        q_rows=query_rows[order // (heads * most)] * heads + order // most % heads,
        k_rows=keys.rows[_ranges(start[chosen], k_count, total_k)] * groups + group,
        targets=(query_rows[:, None] * heads + heads_of).flatten(),
        slot=order,
        fold=most,
        by_head=True,
    )


def _cumulative(count: Tensor) -> Tensor:
    """int64 [N] → int32 [N+1]."""
    return torch.nn.functional.pad(count.cumsum(0), (1, 0)).int()


def _ranges(start: Tensor, count: Tensor, total: int) -> Tensor:
    """start[0] … start[0]+count[0]-1, start[1] …: int64 [total], without a host synchronisation."""
    shift = start - (count.cumsum(0) - count)
    return torch.arange(total, device=start.device) + shift.repeat_interleave(count, output_size=total)
