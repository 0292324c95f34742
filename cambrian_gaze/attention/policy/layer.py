"""One layer of one call under a policy: its hooks asked in the order of the sequence, and the masks that follow.

Shapes: B rows, G KV heads, H query heads, Q queries, Q' of a block, S keys, L tokens so far, N visual tokens of a row,
D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cambrian_gaze.attention.policy.call import Call, Event
from cambrian_gaze.attention.policy.policy import Question, VisualTokens
from cambrian_gaze.attention.policy.state import PolicyState
from cambrian_gaze.attention.rotary import unrotate
from cambrian_gaze.gaze.layout import TEXT

BLOCK_PAIRS = 2**24
"""Pairs of a query (of a head) and a key under one mask."""


class Stored(NamedTuple):
    """What the cache holds of a layer, in the order of `Call.keys`."""

    keys: Tensor
    """[B, G, S, D]."""
    values: Tensor
    """[B, G, S, D]."""
    bare: Tensor | None
    """[B, G, S, D], keys before RoPE, where wanted."""


class _Limit(NamedTuple):
    """What a row's queries from `start` on may not see."""

    row: int
    start: int
    columns: Tensor
    """int64 [N]: visual tokens among the keys."""
    kept: Tensor
    """bool [H, N]."""


class PolicyLayer:
    """The decisions of one layer in one call, made when it is constructed.

    Args:
        q: [B, H, Q, D]; rotary: cos and sin [B or 1, Q, D] of the queries, where bare keys are wanted.
    """

    def __init__(
        self,
        state: PolicyState,
        call: Call,
        layer: int,
        q: Tensor,
        stored: Stored,
        rotary: tuple[Tensor, Tensor] | None,
        scaling: float,
    ) -> None:
        self.state, self.call, self.layer, self.rotary, self.scaling = state, call, layer, rotary, scaling
        self.q, self.stored = q, stored
        self.limits: list[_Limit] = []
        policy = state.policy
        self.retained = state.grown(state.retained, layer, stored.keys.shape[1], call)
        self.at = call.keys.index.clamp(max=call.length - 1)
        if policy.thins:
            self._thin()
        self.before = self._at_keys(self.retained)
        for row, events in enumerate(call.events):
            for event in events:
                self._memorise(row, event)
        if policy.needs_question:
            self.chosen = state.grown(state.chosen, layer, q.shape[1], call)
            if call.asks:
                self._ask()
            elif state.asked:
                self.before = self.before & self._at_keys(self.chosen)
        if policy.selects and call.answers:
            for row, columns in enumerate(call.columns):
                if len(columns):
                    self._limit(row, q.shape[2] - 1, columns, policy.select(self._tokens(row, columns), q[row, :, -1]))

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Queries in blocks, and bool [B, H, Q', S], the pairs that enter the softmax."""
        (batch, heads, queries, _), keys = self.q.shape, self.stored.keys.shape[2]
        step = max(1, BLOCK_PAIRS // max(1, batch * heads * keys))
        for start in range(0, queries, step):
            block = slice(start, min(start + step, queries))
            yield block, self.allowed(block)

    def allowed(self, block: slice, row: int | None = None) -> Tensor:
        """bool [B or 1, H, Q', S], of all rows or one."""
        before = self.before if row is None else self.before[row : row + 1]
        held = before[:, :, None].expand(-1, -1, block.stop - block.start, -1)
        limits = [limit for limit in self.limits if limit.start < block.stop and row in (None, limit.row)]
        if limits:
            held = held.clone()
        for limit in limits:
            mine = held[limit.row if row is None else 0][:, max(0, limit.start - block.start) :]
            mine[:, :, limit.columns] = mine[:, :, limit.columns] & limit.kept[:, None]
        return self.call.allowed(block, held, row)

    def _at_keys(self, table: Tensor) -> Tensor:
        """bool [B, H, S] of bool [B, G or H, L] by place in the sequence."""
        found = table.gather(2, self.at[:, None].expand(-1, table.shape[1], -1))
        return found.repeat_interleave(self.q.shape[1] // table.shape[1], dim=1)

    def _tokens(self, row: int, columns: Tensor) -> VisualTokens:
        layout, stored = self.call.keys, self.stored
        return VisualTokens(
            row=row,
            layer=self.layer,
            layers=self.state.layers,
            keys=stored.keys[row][:, columns],
            values=stored.values[row][:, columns],
            bare_keys=None if stored.bare is None else stored.bare[row][:, columns],
            unit=layout.unit[row, columns],
            region=layout.region[row, columns],
            retained=self.retained[row][:, layout.index[row, columns]],
            memory=self.state.memory[row],
        )

    def _thin(self) -> None:
        """Ask what stays of the visual tokens that came with this call, and hide the rest from all queries."""
        for row, columns in enumerate(self.call.columns):
            if self.call.events[row] and len(columns):
                tokens = self._tokens(row, columns)
                kept = self.state.policy.on_arrival(tokens)
                if kept is not None:
                    self._keep(row, columns, kept & tokens.retained)

    def _memorise(self, row: int, event: Event) -> None:
        """Ask what stays in memory, and hide the rest from the queries that follow."""
        columns = self.call.columns[row][: event.tokens]
        tokens = self._tokens(row, columns)
        kept = getattr(self.state.policy, event.hook)(tokens)
        if kept is not None:
            self._keep(row, columns, kept & tokens.retained)
            self._limit(row, event.start, columns, kept)

    def _keep(self, row: int, columns: Tensor, kept: Tensor) -> None:
        self.retained[row][:, self.call.keys.index[row, columns]] = kept

    def _limit(self, row: int, start: int, columns: Tensor, kept: Tensor | None) -> None:
        """Hide from a row's queries from `start` on what is not in `kept`, bool [G or H, N]."""
        if kept is not None:
            self.limits.append(_Limit(row, start, columns, self._by_head(kept)))

    def _by_head(self, kept: Tensor) -> Tensor:
        return kept.repeat_interleave(self.q.shape[1] // len(kept), dim=0)

    def _ask(self) -> None:
        """Let the policy choose by the question."""
        policy, layout, last = self.state.policy, self.call.queries, self.q.shape[2] - 1
        asked = []
        for row, columns in enumerate(self.call.columns):
            if len(columns):
                behind = layout.index[row] > self.call.keys.index[row, columns[-1]]
                asking = ((layout.role[row] == TEXT) & behind).nonzero().flatten()
                asked.append((row, columns, self._question(row, columns, asking)))
        for row, columns, question in asked:
            tokens = self._tokens(row, columns)
            chosen = policy.on_question(tokens, question)
            if chosen is None:
                continue
            self.chosen[row][:, self.call.keys.index[row, columns]] = self._by_head(chosen)
            if policy.evicts_at_question:
                self._keep(row, columns, chosen & tokens.retained)
            self._limit(row, 0 if policy.prunes_prompt else last, columns, chosen)

    def _question(self, row: int, columns: Tensor, asking: Tensor) -> Question:
        alone = slice(int(asking[0]), int(asking[-1]) + 1)
        queries = self.q[row][:, alone]
        # In fp32: in 16 bits near-ties are decided by rounding, and products overflow in fp16 before they are scaled.
        keys = self.stored.keys[row].float()
        keys = keys.repeat_interleave(len(queries) // len(keys), dim=0).transpose(-1, -2)
        step, weights = max(1, BLOCK_PAIRS // (len(queries) * keys.shape[-1])), []
        for start in range(alone.start, alone.stop, step):
            block = slice(start, min(start + step, alone.stop))
            logits = self.q[row][:, block].float() @ keys * self.scaling
            hidden = ~self.allowed(block, row)[0]
            weights.append(logits.masked_fill_(hidden, -torch.inf).softmax(-1)[:, :, columns])
        bare = None
        if self.stored.bare is not None:
            cos, sin = (x.expand(len(self.q), -1, -1)[row : row + 1, alone] for x in self.rotary)
            bare = unrotate(queries[None], cos, sin)[0]
        return Question(queries, bare, torch.cat(weights, dim=1))
