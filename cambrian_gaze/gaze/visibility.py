"""Who may see whom, defined once. The mask, the decode gather and every later backend are derived from these.

A query sees a key when `structure` holds and, where `routable` holds too, the query selected the key's region.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import CONTEXT, EMPTY_SLOT, PAD, TEXT, VISUAL, TokenLayout


class Queries(NamedTuple):
    """What the rules read of queries, in any shape that broadcasts against the keys' (a block mask reads scalars)."""

    role: Tensor
    index: Tensor
    sample: Tensor
    unit: Tensor
    routing: Tensor
    """bool: `routing_queries`."""


class Keys(NamedTuple):
    """What the rules read of keys, in any shape that broadcasts against the queries'."""

    role: Tensor
    index: Tensor
    sample: Tensor
    unit: Tensor
    region_end: Tensor
    """First index after the last unit that the key's region spans; of no meaning for keys of no region."""


def query_fields(q: TokenLayout, config: GazeConfig) -> Queries:
    """[B, Q] each."""
    return Queries(q.role, q.index, q.sample, q.unit, routing_queries(q, config))


def key_fields(q: TokenLayout, k: TokenLayout) -> Keys:
    """[B, S] each. The region table is the queries': the newest where keys come from a cache."""
    end = q.region_end.gather(1, k.region.clamp(min=0)) if q.num_regions else k.index
    return Keys(k.role, k.index, k.sample, k.unit, end)


def sees(q: Queries, k: Keys, config: GazeConfig) -> Tensor:
    """bool: what routing cannot change: same sample, causal order, and the scope of context tokens.

    Padding queries see themselves alone, so that no row of a softmax is empty.
    """
    same_unit = q.unit == k.unit
    seen = (k.index <= q.index) & (q.sample == k.sample) & (k.role != PAD)
    seen = seen & ((q.role != CONTEXT) | same_unit)
    if not config.context_visible:
        seen = seen & ((q.role != TEXT) | (k.role != CONTEXT))
    if not config.visual_sees_context:
        seen = seen & ((q.role != VISUAL) | (k.role != CONTEXT) | same_unit)
    if config.visual_queries == "unit":
        seen = seen & ((q.role != VISUAL) | (k.role != VISUAL) | same_unit)
    return seen | ((q.role == PAD) & (k.role == PAD) & (q.index == k.index))


def needs_choice(q: Queries, k: Keys) -> Tensor:
    """bool: pairs that need the key's region to be selected: visual keys of regions that end before the query and
    lie outside its own unit."""
    return q.routing & (k.role == VISUAL) & (q.unit != k.unit) & (k.region_end <= q.index)


def structure(q: TokenLayout, k: TokenLayout, config: GazeConfig) -> Tensor:
    """`sees` of every pair, bool [B, Q, S]."""
    return sees(*_pairs(q, k, config), config)


def routable(q: TokenLayout, k: TokenLayout, config: GazeConfig) -> Tensor:
    """`needs_choice` of every pair, bool [B, Q, S]."""
    return needs_choice(*_pairs(q, k, config))


def routing_queries(q: TokenLayout, config: GazeConfig) -> Tensor:
    """bool [B, Q]: the queries that select regions."""
    routing = (q.role == TEXT) & q.routed
    if config.visual_queries == "gaze":
        routing = routing | (q.role == VISUAL)
    return routing


def regions_offered(q: TokenLayout, config: GazeConfig) -> Tensor:
    """bool [B, Q, R]: the regions whose units lie wholly before the query, in its own sample."""
    before = q.region_end[:, None, :] <= q.index[:, :, None]
    mine = q.region_sample[:, None, :] == q.sample[:, :, None]
    return before & mine & (q.region_size > 0)[:, None, :] & routing_queries(q, config)[:, :, None]


def offered_any(q: TokenLayout, config: GazeConfig) -> Tensor:
    """bool [B, Q]: the queries that `regions_offered` offers a region. Holds nothing of the size Q × R."""
    routing = routing_queries(q, config)
    if not q.num_regions or not q.role.numel():
        return torch.zeros_like(routing)
    samples = 2 + int(torch.maximum(q.sample.max(), q.region_sample.max()))
    first_end = torch.full((q.shape[0], samples), EMPTY_SLOT, dtype=torch.int64, device=q.index.device)
    ends = q.region_end.masked_fill(q.region_size == 0, EMPTY_SLOT)
    first_end = first_end.scatter_reduce(1, q.region_sample + 1, ends, "amin")
    return routing & (first_end.gather(1, q.sample + 1) <= q.index)


def hidden_of(hidden: Tensor, q: TokenLayout) -> Tensor:
    """bool [B, R]: the regions that text queries are denied, of bool [B, R'] by region number of the row, R' ≤ R; those
    beyond R' are not hidden.

    Raises: ValueError for another shape, or where a row with regions would be left none.
    """
    batch, regions = q.region_size.shape
    if hidden.dtype != torch.bool or hidden.dim() != 2 or hidden.shape[0] != batch or hidden.shape[1] > regions:
        raise ValueError(
            f"hidden_regions must be bool [{batch}, up to {regions}], got {hidden.dtype} {list(hidden.shape)}"
        )
    denied = torch.nn.functional.pad(hidden, (0, regions - hidden.shape[1]))
    there = q.region_size > 0
    if bool((there.any(1) & ~(there & ~denied).any(1)).any()):
        raise ValueError("hidden_regions leaves a row no region; leave at least one")
    return denied


def less_hidden(offered: Tensor, denied: Tensor, q: TokenLayout) -> Tensor:
    """The regions offered, bool [B, Q, R], less those that text queries are denied, bool [B, R]; visual queries keep
    theirs."""
    return offered & ~(denied[:, None] & (q.role == TEXT)[:, :, None])


def _pairs(q: TokenLayout, k: TokenLayout, config: GazeConfig) -> tuple[Queries, Keys]:
    """Queries along the second of three dimensions, keys along the third."""
    queries = Queries(*(x[:, :, None] for x in query_fields(q, config)))
    return queries, Keys(*(x[:, None, :] for x in key_fields(q, k)))
