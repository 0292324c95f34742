"""Which rows of an attention call need a mask: derived once from the layouts, the same in every layer.

Most rows do not: a visual query sees every earlier token of its sample, and plain causal attention over the sample's
tokens gives just that. Three kinds of rows are computed apart and take the place of theirs:

- queries that choose regions: under a mask of their own, per head;
- context queries, which see their unit alone: per unit;
- what options set apart (`visual_queries: unit`, context tokens that some queries may not see): under a mask that all
  heads share.

Keys in another order than the queries (a cache stores regions one by one), or beyond them, leave no row without a mask.
Shapes: B rows, Q queries, S keys, T queries that choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.masks import MaskedRows
from cambrian_gaze.gaze.layout import CONTEXT, PAD, TEXT, VISUAL
from cambrian_gaze.gaze.visibility import offered_any

_PADDING, _PLAIN, _OF_UNIT, _SHARED, _CHOOSES = range(5)
"""Kinds of rows."""


@dataclass(frozen=True)
class UnitRun:
    """`count` units of one size, one right after the other: each has `length` tokens, of which the last `context` are
    context tokens."""

    start: int
    count: int
    length: int
    context: int


@dataclass(frozen=True)
class Segment:
    """One sample, tokens `start` to `stop` of its rows. Token numbers below count from `start`."""

    start: int
    stop: int
    causal: int
    """Tokens, from the first on, that the causal pass is over: up to the last row that it is right for."""
    apart: Tensor
    """int64 [N]: rows that are computed apart, in the order context, shared, choosing."""
    runs: tuple[UnitRun, ...]
    """Units that have context queries."""
    shared: MaskedRows | None
    choosing: MaskedRows | None
    places: slice
    """Which of the row's queries that choose are this sample's."""


@dataclass(frozen=True)
class Band:
    """Rows of the batch, from `first` up to `end`, that are alike token by token."""

    first: int
    end: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Scattered:
    """All rows under masks, keys in any order."""

    shared: MaskedRows | None
    shared_at: Tensor
    """int64 [B, N]: the queries that choose nothing, filled up with others."""
    choosing: MaskedRows | None
    place: Tensor
    """int64 [B, Q]: where each query's output is, of those of `shared` and then of `choosing`."""


@dataclass(frozen=True)
class RowPlan:
    """How one layer's rows are computed."""

    bands: tuple[Band, ...] | None
    """None: not by samples but `scattered`."""
    scattered: Scattered | None
    router: GazeContext | None
    """The context of the queries that choose, [B, T]; None where none does."""
    tokens: Tensor | None
    """int64 [B, T]: which these are; a row with fewer is filled up with others, which are offered nothing."""

    @property
    def samples(self) -> tuple[tuple[Band, Segment], ...]:
        """The samples that have a causal pass, in the order of the batch's rows."""
        return tuple((band, segment) for band in self.bands or () for segment in band.segments if segment.causal)


def plan(ctx: GazeContext, chooses: bool) -> RowPlan:
    """Sort the rows by kind. Synchronises with the device.

    Args:
        chooses: whether queries choose regions in the layer, or see all of them.
    """
    choosing = offered_any(ctx.layout, ctx.config) if chooses else torch.zeros_like(ctx.layout.routed)
    router = tokens = None
    most = int(choosing.sum(1).max()) if choosing.numel() else 0
    if chooses and ctx.recorder is not None:
        most = max(1, most)  # what is recorded has the shape of a choice, be it empty
    if most:
        tokens = (~choosing).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        router = ctx.of_queries(tokens)
    bands = _bands(ctx, choosing)
    return RowPlan(bands, None if bands is not None else _scattered(ctx, choosing, tokens), router, tokens)


def _scattered(ctx: GazeContext, choosing: Tensor, tokens: Tensor | None) -> Scattered:
    rest = int((~choosing).sum(1).max()) if choosing.numel() else 0
    at = choosing.to(torch.uint8).argsort(dim=1, stable=True)[:, :rest]

    def rows(of: Tensor) -> MaskedRows:
        return MaskedRows(ctx.layout.tokens(of), ctx.key_layout, ctx.config)

    # What fills a row up is computed rightly wherever it stands: any one of its places will do.
    both = at if tokens is None else torch.cat([at, tokens], dim=1)
    number = torch.arange(both.shape[1], device=both.device).expand_as(both)
    place = torch.zeros_like(ctx.layout.index).scatter_(1, both, number)
    return Scattered(rows(at) if rest else None, at, None if tokens is None else rows(tokens), place)


def _bands(ctx: GazeContext, choosing: Tensor) -> tuple[Band, ...] | None:
    """None where some row's keys are not its queries in their order, or a sample is in pieces."""
    layout, keys = ctx.layout, ctx.key_layout
    if keys.shape != layout.shape or not layout.role.numel():
        return None
    if not bool(((keys.index == layout.index).all()) & (layout.index.diff(dim=1) > 0).all()):
        return None
    role, unit = layout.role.cpu(), layout.unit.cpu()
    sample = layout.sample.cpu().masked_fill(role == PAD, -1)
    kind = _kinds(ctx, role, choosing.cpu())
    bands: list[Band] = []
    alike = torch.stack([(x[1:] == x[:-1]).all(1) for x in (kind, sample, unit)]).all(0).tolist()
    firsts = [0, *(b + 1 for b, same in enumerate(alike) if not same), len(role)]
    for first, end in pairwise(firsts):
        segments = _segments(ctx, slice(first, end), kind[first], sample[first], unit[first])
        if segments is None:
            return None
        bands.append(Band(first, end, segments))
    return tuple(bands)


def _kinds(ctx: GazeContext, role: Tensor, choosing: Tensor) -> Tensor:
    """Kind of every row, int8 [B, Q], where keys are the queries in their order."""
    config, no_context = ctx.config, not bool((role == CONTEXT).any())
    visual_plain = config.visual_queries != "unit" and (config.visual_sees_context or no_context)
    text_plain = config.context_visible or no_context
    kind = torch.full_like(role, _PLAIN).masked_fill(role == PAD, _PADDING).masked_fill(role == CONTEXT, _OF_UNIT)
    if not visual_plain:
        kind = kind.masked_fill(role == VISUAL, _SHARED)
    if not text_plain:
        kind = kind.masked_fill(role == TEXT, _SHARED)
    return kind.masked_fill(choosing, _CHOOSES)


def _segments(ctx: GazeContext, rows: slice, kind: Tensor, sample: Tensor, unit: Tensor) -> tuple[Segment, ...] | None:
    """The samples of rows that are alike; None where one is in pieces."""
    device = ctx.layout.role.device
    segments: list[Segment] = []
    seen: set[int] = set()
    chosen_so_far = 0
    for start, stop in _runs(sample):
        number = int(sample[start])
        if number < 0:
            continue
        if number in seen:
            return None
        seen.add(number)
        here, units = kind[start:stop].clone(), unit[start:stop]
        runs = _unit_runs(here, units)
        if runs is None:
            runs, here = (), here.masked_fill(here == _OF_UNIT, _SHARED)
        of_unit, shared, choosing = ((here == k).nonzero().flatten() for k in (_OF_UNIT, _SHARED, _CHOOSES))
        plain = (here == _PLAIN).nonzero().flatten()
        places = slice(chosen_so_far, chosen_so_far := chosen_so_far + len(choosing))

        def masked(of: Tensor, rows: slice = rows, start: int = start, stop: int = stop) -> MaskedRows | None:
            if not len(of):
                return None
            keys = ctx.layout.rows(torch.arange(rows.start, rows.stop, device=device)).tokens(slice(start, stop))
            at = of.to(device).expand(keys.shape[0], -1)
            return MaskedRows(keys.tokens(at), keys, ctx.config, ends=(of + 1).tolist())

        segments.append(
            Segment(
                start=start,
                stop=stop,
                causal=int(plain[-1]) + 1 if len(plain) else 0,
                apart=torch.cat([of_unit, shared, choosing]).to(device),
                runs=runs,
                shared=masked(shared),
                choosing=masked(choosing),
                places=places,
            )
        )
    return tuple(segments)


def _runs(values: Tensor) -> Iterator[tuple[int, int]]:
    """Bounds of the runs of equal values in [S]."""
    cuts = (values[1:] != values[:-1]).nonzero().flatten() + 1
    yield from pairwise([0, *cuts.tolist(), len(values)])


def _unit_runs(kind: Tensor, unit: Tensor) -> tuple[UnitRun, ...] | None:
    """The units of one sample that have context queries; None where one is not whole, or context does not end it."""
    runs: list[UnitRun] = []
    seen: set[int] = set()
    number, is_context = unit.tolist(), (kind == _OF_UNIT).long().cumsum(0).tolist()
    for start, stop in _runs(unit):
        context = is_context[stop - 1] - (is_context[start - 1] if start else 0)
        if number[start] < 0:
            if context:
                return None
            continue
        before = is_context[stop - 1 - context] if context < stop else 0
        if number[start] in seen or before != (is_context[start - 1] if start else 0):
            return None
        seen.add(number[start])
        if not context:
            continue
        last, length = runs[-1] if runs else None, stop - start
        if last is not None and (last.length, last.context) == (length, context):
            if last.start + last.count * length == start:
                runs[-1] = UnitRun(last.start, last.count + 1, length, context)
                continue
        runs.append(UnitRun(start, 1, length, context))
    return tuple(runs)
