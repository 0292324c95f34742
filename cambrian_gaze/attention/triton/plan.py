"""What the Triton kernels read beside q, k and v: who sees whom among text and context, the keys of every region, and
the queries of every region. Plain torch, and no synchronisation per region.

Shapes: B rows, Q queries of which T route, S keys of which F are text or context, R blocks of N keys, K blocks
per query, H query heads, G KV heads.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import CONTEXT, EMPTY_SLOT, TEXT, VISUAL, TokenLayout

BLOCK_KEYS = 64
"""Keys of a region that a program holds at once; a larger region is cut into blocks."""


@dataclass(frozen=True)
class QueryRows:
    """Some of the queries, in order of their place in the sequence: T of each row of the batch."""

    member: Tensor
    """bool [B, Q]."""

    at: Tensor
    """int64 [B, T]: number of the query; 0 where a row has fewer."""

    real: Tensor
    """bool [B, T]: whether there is one."""

    place: Tensor
    """int64 [B, Q]: where a member stands in `at`, else 0."""

    @classmethod
    def of(cls, member: Tensor, index: Tensor) -> QueryRows:
        """The members, bool [B, Q], by `index`, int64 [B, Q]. Synchronises with the device, for their number."""
        at, real = _in_order(member, index)
        spare = torch.where(real, at, member.shape[1])
        number = torch.arange(at.shape[1], device=at.device).expand_as(at)
        place = at.new_zeros(member.shape[0], member.shape[1] + 1).scatter(1, spare, number)[:, :-1]
        return cls(member, at.where(real, 0), real, place)

    def take(self, x: Tensor) -> Tensor:
        """[B, *, Q, D] → [B, *, T, D]."""
        return x.gather(2, self.at[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))

    def put(self, x: Tensor, into: Tensor | int) -> Tensor:
        """[B, *, T, D] → [B, *, Q, D], with the other queries' rows from `into`."""
        back = x.gather(2, self.place[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
        return torch.where(self.member[:, None, :, None], back, into)


@dataclass(frozen=True)
class LaunchPlan:
    """What the kernels read beside q, k and v. The F text and context keys of a row stand in order, like its T routing
    queries: of these keys query t sees first[t] … last[t]-1 and no others."""

    first: Tensor
    """int64 [B, T]."""

    last: Tensor
    """int64 [B, T]; 0 where there is no query."""

    key_at: Tensor
    """int64 [B, F]: number of the key, -1 where a row has fewer."""

    row_first: Tensor
    """int64 [B, F]: first query that sees the key …"""

    row_last: Tensor
    """int64 [B, F]: … and the one after the last."""

    table: Tensor
    """int64 [B, R, N]: the keys of every block, -1 for none."""

    cuts: int
    """Blocks per region."""

    @classmethod
    def of(cls, layout: TokenLayout, keys: TokenLayout, rows: QueryRows, config: GazeConfig) -> LaunchPlan:
        """From the layouts of queries and keys. A pack numbers its samples in order, so that what a query sees of the
        text and context keys is one run of them: from the first of its sample to itself."""
        text_context = (keys.role == TEXT) | (keys.role == CONTEXT) & config.context_visible
        key_at, real = _in_order(text_context, keys.index)
        key_index = keys.index.gather(1, key_at).masked_fill(~real, EMPTY_SLOT)
        row_index = layout.index.gather(1, rows.at).masked_fill(~rows.real, EMPTY_SLOT)
        last = torch.searchsorted(key_index, row_index, right=True)
        key_sample = keys.sample.gather(1, key_at).masked_fill(~real, EMPTY_SLOT)
        row_sample = layout.sample.gather(1, rows.at).masked_fill(~rows.real, EMPTY_SLOT)
        table, cuts = _blocks(keys, config)
        return cls(
            first=torch.searchsorted(key_sample, row_sample),
            last=last.masked_fill(~rows.real, 0),
            key_at=key_at.masked_fill(~real, -1),
            row_first=torch.searchsorted(row_index, key_index),
            row_last=torch.searchsorted(row_sample, key_sample, right=True),
            table=table,
            cuts=cuts,
        )

    def queries(self, start: int, stop: int) -> LaunchPlan:
        """The plan of the queries start … stop-1 alone."""
        part = {name: getattr(self, name)[:, start:stop].contiguous() for name in ("first", "last")}
        bounds = {name: (getattr(self, name) - start).clamp(0, stop - start) for name in ("row_first", "row_last")}
        return dataclasses.replace(self, **part, **bounds)

    def blocks_of(self, most: int) -> LaunchPlan:
        """The plan with blocks of at most `most` keys."""
        batch, blocks, size = self.table.shape
        parts = -(-size // most)
        if parts == 1:
            return self
        size = -(-size // parts)
        table = torch.nn.functional.pad(self.table, (0, parts * size - self.table.shape[2]), value=-1)
        return dataclasses.replace(self, table=table.view(batch, blocks * parts, size), cuts=self.cuts * parts)


class Selection(NamedTuple):
    """The blocks that queries chose, and the queries that chose each block."""

    blocks: Tensor
    """int64 [B, H or G, T, K], contiguous, -1 for none."""
    offsets: Tensor
    entries: Tensor
    """As `queries_of_blocks` returns them."""

    @classmethod
    def of(cls, blocks: Tensor, num_blocks: int, kv_heads: int) -> Selection:
        """See `queries_of_blocks`."""
        return cls(blocks, *queries_of_blocks(blocks, num_blocks, kv_heads))


class OutputGradient(NamedTuple):
    """What the backward pass is given of the output."""

    dout: Tensor
    """[B, H, T, D], contiguous."""
    lse: Tensor
    """fp32 [B, H, T], log-sum-exp of the logits."""
    delta: Tensor
    """fp32 [B, H, T], the sum of out · dout."""


def queries_of_blocks(blocks: Tensor, num_blocks: int, kv_heads: int) -> tuple[Tensor, Tensor]:
    """For every (row, KV head, block) the list of the selections that name it, in order of head and query.

    Args:
        blocks: int64 [B, H or G, T, K], -1 for none.

    Returns: offsets int64 [B·G·R + 1]; entries int64 [B·HS·T·K]: places in `blocks`, flattened; those of list i are
    entries[offsets[i] : offsets[i + 1]].
    """
    batch, selecting = blocks.shape[:2]
    number = torch.arange(batch * selecting, device=blocks.device) // (selecting // kv_heads)
    owner = number.view(batch, selecting, 1, 1) * num_blocks + blocks
    total = batch * kv_heads * num_blocks
    ordered, entries = owner.masked_fill(blocks < 0, total).flatten().sort(stable=True)
    return torch.searchsorted(ordered, torch.arange(total + 1, device=blocks.device)), entries


def _in_order(member: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The members of each row by their index: int64 [B, T], and bool [B, T], where there is one."""
    most = int(member.sum(1).max())
    at = torch.where(member, index, EMPTY_SLOT).argsort(1)[:, :most].contiguous()
    return at, member.gather(1, at)


def _blocks(keys: TokenLayout, config: GazeConfig) -> tuple[Tensor, int]:
    """The keys of every block, int64 [B, R, N], -1 for none; and the number of blocks per region."""
    budgets = [config.image] if config.video is None else [config.image, config.video]
    largest = max(budget.tokens_per_region for budget in budgets)
    cuts = -(-largest // BLOCK_KEYS)
    size = -(-largest // cuts)
    batch, length = keys.shape
    wide = keys.num_regions * cuts * size
    place = (keys.region * cuts + keys.slot // size) * size + keys.slot % size
    place = torch.where(keys.role == VISUAL, place, wide)
    number = torch.arange(length, device=place.device).expand(batch, length)
    table = torch.full((batch, wide + 1), -1, dtype=torch.int64, device=place.device).scatter(1, place, number)
    return table[:, :wide].contiguous().view(batch, -1, size), cuts
