"""Attention under a `VisiblePolicy`: what is retained and visible per layer, row and head, and the masks made of it.

A reference that is exact and simple: every call attends densely under a mask, and what was evicted is hidden for ever
instead of freed. It measures what a policy's decisions cost in quality, not what they save in time or memory.
Shapes: B rows, G KV heads, H query heads, Q queries, S keys, L tokens so far, N visual tokens of a row, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from cambrian_gaze.attention.masks import under_mask
from cambrian_gaze.attention.policy import Question, VisiblePolicy, VisualTokens
from cambrian_gaze.attention.policy_routing import check_gaze, choose_of_held, inside
from cambrian_gaze.attention.rotary import unrotate
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import CONTEXT, PAD, TEXT, VISUAL, TokenLayout
from cambrian_gaze.gaze.visibility import structure

if TYPE_CHECKING:
    from cambrian_gaze.attention.context import GazeContext


class _Event(NamedTuple):
    hook: Literal["on_unit", "on_text"]
    tokens: int
    """The row's visual tokens that there are by then."""
    start: int
    """First query of the call for which it counts."""


@dataclass(frozen=True)
class _Call:
    """What one forward call's layers share."""

    keys: TokenLayout
    """Layout of [page slots, text and context columns]."""
    seen: Tensor
    """bool [B, 1, Q, S]: `structure`; padding sees all, so that its softmax is a number."""
    own: Tensor
    """bool [B, 1, Q, S]: a token and itself."""
    columns: list[Tensor]
    """Per row, int64 [N]: its visual tokens among the keys, in the order of the sequence."""
    events: list[list[_Event]]
    asks: bool
    """Whether the prompt ends with this call."""
    answers: bool
    """Whether the last query is one of the answer, or the last of the prompt."""


class PolicyState:
    """What a policy has decided so far, for one cache.

    Raises: ValueError where the policy cannot run in a decoder of so many layers, or not under this gaze.
    """

    def __init__(self, policy: VisiblePolicy, layers: int, config: GazeConfig) -> None:
        policy.check(layers)
        check_gaze(policy, config)
        self.policy = policy
        self.config = config
        self.layers = layers
        self.retained: dict[int, Tensor] = {}
        """By layer, bool [B, G, L]: what is in memory, by place in the sequence."""
        self.chosen: dict[int, Tensor] = {}
        """By layer, bool [B, H, L]: what the answer may see of it."""
        self.asked = False
        self._unread: list[bool] = []
        self._memory: list[dict] = []

    def prepare(self, ctx: GazeContext) -> None:
        """Find units, text and the question in a call's layout, once for all layers.

        Raises: ValueError for a question in several calls, or a second one, where the policy needs the question; for a
        prompt in several calls where it changes what the prompt sees; and for packed rows.
        """
        queries, keys, config = ctx.layout, ctx.cache.key_layout(), ctx.config
        batch, length = queries.shape
        if self.policy.needs_question and self.asked and length > 1:
            raise ValueError(
                f"policy {self.policy.name!r} has chosen by the question already and takes no more than one token at a "
                "time now; give the whole prompt in one call, and each question a cache of its own"
            )
        if not self._unread:
            self._unread, self._memory = [False] * batch, [{} for _ in range(batch)]
        seen = structure(queries, keys, config) | (queries.role == PAD)[:, :, None]
        visual = keys.role == VISUAL
        order = torch.where(visual, keys.index, torch.iinfo(torch.int64).max).argsort(dim=1)
        counts = visual.sum(1).tolist()
        ends_in_text = bool((queries.role[:, -1] == TEXT).all())
        asks = not self.asked and ends_in_text and any(counts)
        if asks and self.policy.prunes_prompt and ctx.reads_cache:
            raise ValueError(
                f"policy {self.policy.name!r} takes tokens out of the prompt's own queries, which have been computed "
                "already; give the whole prompt in one call"
            )
        if bool((queries.sample > 0).any()):
            raise ValueError(f"policy {self.policy.name!r} serves one sample per row; a row of this call holds more")
        self.asked = self.asked or asks
        ctx.prepared["policy"] = _Call(
            keys=keys,
            seen=seen[:, None],
            own=(keys.index[:, None] == queries.index[:, :, None])[:, None],
            columns=[row[:count] for row, count in zip(order, counts, strict=True)],
            events=self._events(queries, counts),
            asks=asks,
            answers=self.asked and ends_in_text,
        )

    def _events(self, queries: TokenLayout, counts: list[int]) -> list[list[_Event]]:
        batch, length = queries.shape
        new = (queries.role == VISUAL).sum(1).tolist()
        if not any(new) and not any(self._unread):
            return [[] for _ in range(batch)]
        found = []
        for row, (roles, units) in enumerate(zip(queries.role.tolist(), queries.unit.tolist(), strict=True)):
            there, events = counts[row] - new[row], []
            for place, (role, unit) in enumerate(zip(roles, units, strict=True)):
                there += role == VISUAL
                if role in (VISUAL, CONTEXT):
                    self._unread[row] = True
                    if place + 1 == length or units[place + 1] != unit:
                        events.append(_Event("on_unit", there, place + 1))
                elif role == TEXT and self._unread[row]:
                    self._unread[row] = False
                    events.append(_Event("on_text", there, place))
            found.append(events)
        return found

    def attend(self, q: Tensor, ctx: GazeContext, layer: int, scaling: float) -> Tensor:
        """Attention of q [B, H, Q, D] over what each query may see of the cache; returns [B, H, Q, D]."""
        call: _Call = ctx.prepared["policy"]
        pages = ctx.cache.layers[layer]
        keys = torch.cat([pages.page_keys.flatten(2, 3), pages.flat_keys], dim=2)
        values = torch.cat([pages.page_values.flatten(2, 3), pages.flat_values], dim=2)
        bare = None
        if self.policy.wants_bare_keys:
            bare = torch.cat([pages.stores["bare"].pages.flatten(2, 3), pages.flat_keys], dim=2)
        allowed, regions = _Layer(self, call, layer, q, keys, values, bare, ctx, scaling).allowed(), None
        if ctx.config.routes(layer) and ctx.layout.num_regions:
            regions = choose_of_held(q, keys, allowed & (call.keys.role == VISUAL)[:, None, None], call.keys, ctx)
            chosen = inside(regions, call.keys, ctx)
            allowed = allowed & chosen.repeat_interleave(q.shape[1] // chosen.shape[1], dim=1)
        if ctx.recorder is not None:
            _record(ctx, call, layer, allowed, regions)
        return under_mask(q, keys, values, allowed, scaling, 0.0)

    def grown(self, table: dict[int, Tensor], layer: int, heads: int, length: int, call: _Call) -> Tensor:
        """bool [B, heads, length]: a table's entry of a layer, with True for tokens that it does not hold yet."""
        old, batch = table.get(layer), call.seen.shape[0]
        held = torch.ones(batch, heads, length, dtype=torch.bool, device=call.seen.device)
        if old is not None:
            held[:, :, : old.shape[2]] = old
        table[layer] = held
        return held

    def retained_visual(self, layout: TokenLayout) -> Tensor:
        """int64 [B, layers, G]: visual entries in memory. layout: of the cache's page slots."""
        visual = layout.role == VISUAL
        counts = []
        for layer in sorted(self.retained):
            held = self.retained[layer]
            at = layout.index.clamp(max=held.shape[2] - 1)[:, None].expand(-1, held.shape[1], -1)
            counts.append((held.gather(2, at) & visual[:, None]).sum(-1))
        return torch.stack(counts, dim=1)

    def rows(self, index: Tensor) -> None:
        """Keep, repeat or reorder rows, int64 [B']."""
        for table in (self.retained, self.chosen):
            for layer, held in table.items():
                table[layer] = held.index_select(0, index.to(held.device))
        self._unread = [self._unread[row] for row in index.tolist()]
        self._memory = [dict(self._memory[row]) for row in index.tolist()]

    def crop(self, length: int) -> None:
        """Forget tokens from `length` on."""
        for table in (self.retained, self.chosen):
            for layer, held in table.items():
                table[layer] = held[:, :, :length]


@dataclass
class _Layer:
    """One layer of one call."""

    state: PolicyState
    call: _Call
    layer: int
    q: Tensor
    keys: Tensor
    values: Tensor
    bare: Tensor | None
    ctx: GazeContext
    scaling: float

    def allowed(self) -> Tensor:
        """bool [B, H, Q, S]: the pairs that enter the softmax."""
        call, state, policy = self.call, self.state, self.state.policy
        heads, length = self.q.shape[1], self.ctx.cache.length
        self.retained = state.grown(state.retained, self.layer, self.keys.shape[1], length, call)
        self.at = call.keys.index.clamp(max=length - 1)
        self.visual = (call.keys.role == VISUAL)[:, None, None]
        self.held = self._at_keys(self.retained)[:, :, None].expand(-1, -1, self.q.shape[2], -1)
        if any(call.events):
            self.held = self.held.clone()
            for row, events in enumerate(call.events):
                for event in events:
                    self._memorise(row, event)
        if policy.needs_question:
            self.chosen = state.grown(state.chosen, self.layer, heads, length, call)
            if call.asks:
                self._ask()
            elif state.asked:
                self.held = self.held & self._at_keys(self.chosen)[:, :, None]
        if policy.selects and call.answers:
            self.held = self.held.clone()
            for row, columns in enumerate(call.columns):
                if len(columns):
                    self._show(row, policy.select(self._tokens(row, columns), self.q[row, :, -1]), slice(-1, None))
        return self._under(self.held)

    def _under(self, held: Tensor) -> Tensor:
        return self.call.seen & (~self.visual | held | self.call.own)

    def _at_keys(self, table: Tensor) -> Tensor:
        """bool [B, H, S] of bool [B, G or H, L] by place in the sequence."""
        found = table.gather(2, self.at[:, None].expand(-1, table.shape[1], -1))
        return found.repeat_interleave(self.q.shape[1] // table.shape[1], dim=1)

    def _tokens(self, row: int, columns: Tensor) -> VisualTokens:
        layout = self.call.keys
        return VisualTokens(
            row=row,
            layer=self.layer,
            layers=self.state.layers,
            keys=self.keys[row][:, columns],
            values=self.values[row][:, columns],
            bare_keys=None if self.bare is None else self.bare[row][:, columns],
            unit=layout.unit[row, columns],
            region=layout.region[row, columns],
            retained=self.retained[row][:, layout.index[row, columns]],
            memory=self.state._memory[row],
        )

    def _memorise(self, row: int, event: _Event) -> None:
        """Ask what stays in memory, and hide the rest from the queries that follow."""
        columns = self.call.columns[row][: event.tokens]
        tokens = self._tokens(row, columns)
        kept = getattr(self.state.policy, event.hook)(tokens)
        if kept is not None:
            self._keep(row, columns, kept & tokens.retained)
            self._show(row, kept, slice(event.start, None), columns)

    def _keep(self, row: int, columns: Tensor, kept: Tensor) -> None:
        self.retained[row][:, self.call.keys.index[row, columns]] = kept

    def _show(self, row: int, kept: Tensor | None, queries: slice, columns: Tensor | None = None) -> None:
        """Hide from some queries what is not in `kept`, bool [G or H, N]."""
        if kept is None:
            return
        columns = self.call.columns[row] if columns is None else columns
        by_head = kept.repeat_interleave(self.q.shape[1] // len(kept), dim=0)
        held = self.held[row][:, queries]
        held[:, :, columns] = held[:, :, columns] & by_head[:, None]

    def _ask(self) -> None:
        """Let the policy choose by the question."""
        policy, layout = self.state.policy, self.ctx.layout
        self.held = self.held.clone()
        allowed = self._under(self.held)
        for row, columns in enumerate(self.call.columns):
            if not len(columns):
                continue
            last = self.call.keys.index[row, columns[-1]]
            asking = ((layout.role[row] == TEXT) & (layout.index[row] > last)).nonzero().flatten()
            tokens = self._tokens(row, columns)
            chosen = policy.on_question(tokens, self._question(row, columns, asking, allowed))
            if chosen is None:
                continue
            places = self.call.keys.index[row, columns]
            self.chosen[row][:, places] = chosen.repeat_interleave(self.q.shape[1] // len(chosen), dim=0)
            if policy.evicts_at_question:
                self._keep(row, columns, chosen & tokens.retained)
            self._show(row, chosen, slice(None) if policy.prunes_prompt else slice(-1, None))

    def _question(self, row: int, columns: Tensor, asking: Tensor, allowed: Tensor) -> Question:
        queries = self.q[row][:, asking]
        keys = self.keys[row].repeat_interleave(len(queries) // self.keys.shape[1], dim=0)
        logits = (queries @ keys.transpose(-1, -2) * self.scaling).float()
        weights = logits.masked_fill(~allowed[row][:, asking], -torch.inf).softmax(-1)
        bare = None
        if self.bare is not None:
            bare = unrotate(self.q, *self.ctx.rotary)[row][:, asking]
        return Question(queries, bare, weights[:, :, columns])


def _record(ctx: GazeContext, call: _Call, layer: int, allowed: Tensor, regions: Tensor | None) -> None:
    """Count the pairs of all queries. regions: what they chose; None: the layer does not choose."""
    role, queries = call.keys.role, ctx.layout
    allowed = allowed & (queries.role != PAD)[:, None, :, None]
    visual, context, text = ((allowed & (role == r)[:, None, None]).sum(-1) for r in (VISUAL, CONTEXT, TEXT))
    before = (call.seen[:, 0] & (role == VISUAL)[:, None]).sum(-1)
    regions = torch.full_like(visual[:, :1, :, None], -1) if regions is None else regions
    ctx.recorder.record(layer, regions, visual, context, text, before, (queries.role == TEXT) & (before > 0))
