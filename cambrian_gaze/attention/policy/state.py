"""Attention under a `VisiblePolicy`: what is retained and visible per layer, row and head, and the masks made of it.

A reference that is exact and simple: every call attends densely under a mask, and what was evicted is hidden for ever
instead of freed. It measures what a policy's decisions cost in quality, not what they save in time or memory.
Shapes: B rows, G KV heads, H query heads, Q queries, Q' of a block, S keys, L tokens so far, N visual tokens of a row,
D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from cambrian_gaze.attention.masks import under_mask
from cambrian_gaze.attention.policy.layer import PolicyLayer
from cambrian_gaze.attention.policy.policy import VisiblePolicy
from cambrian_gaze.attention.policy.routing import check_gaze, choose_of_held, inside
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import CONTEXT, PAD, TEXT, VISUAL, TokenLayout
from cambrian_gaze.gaze.visibility import structure

if TYPE_CHECKING:
    from cambrian_gaze.attention.context import GazeContext


class Event(NamedTuple):
    hook: Literal["on_unit", "on_text"]
    tokens: int
    """The row's visual tokens that there are by then."""
    start: int
    """First query of the call for which it counts."""


@dataclass(frozen=True)
class Call:
    """What one forward call's layers share."""

    keys: TokenLayout
    """Layout of [page slots, text and context columns]."""
    queries: TokenLayout
    config: GazeConfig
    visual: Tensor
    """bool [B, 1, 1, S]: which keys are visual."""
    columns: list[Tensor]
    """Per row, int64 [N]: its visual tokens among the keys, in the order of the sequence."""
    events: list[list[Event]]
    asks: bool
    """Whether the prompt ends with this call."""
    answers: bool
    """Whether the last query is one of the answer, or the last of the prompt."""

    def allowed(self, block: slice, held: Tensor, row: int | None = None) -> Tensor:
        """bool [B or 1, H, Q', S]: the pairs that enter the softmax, of all rows or one.

        Args:
            held: bool, the same shape: visual keys that the policy leaves.
        """
        queries, keys, visual = self.queries.tokens(block), self.keys, self.visual
        if row is not None:
            alone = torch.tensor([row], device=visual.device)
            queries, keys, visual = queries.rows(alone), keys.rows(alone), visual[row : row + 1]
        own = keys.index[:, None] == queries.index[:, :, None]  # what was dropped sees itself, not nothing
        return self._seen(queries, keys)[:, None] & (~visual | held | own[:, None])

    def before(self, block: slice) -> Tensor:
        """int64 [B, Q']: visual entries before each query."""
        return (self._seen(self.queries.tokens(block), self.keys) & self.visual[:, 0]).sum(-1)

    def _seen(self, queries: TokenLayout, keys: TokenLayout) -> Tensor:
        """bool [B, Q', S]: `structure`; padding sees all, so that its softmax is a number."""
        return structure(queries, keys, self.config) | (queries.role == PAD)[:, :, None]


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
        self.memory: list[dict] = []
        """By row, `VisualTokens.memory`."""
        self.asked = False
        """Whether the prompt's end has been seen."""
        self._unread: list[bool] = []
        """By row, whether visual tokens came that no text has followed yet."""

    def prepare(self, ctx: GazeContext) -> None:
        """Find units, text and the question in a call's layout, once for all layers.

        Raises: ValueError for a question in several calls, or a second one, where the policy needs the question; for a
        prompt in several calls where it changes what the prompt sees; for packed rows, and padding on the right.
        """
        queries, keys, config = ctx.layout, ctx.cache.key_layout(), ctx.config
        batch, length = queries.shape
        if self.policy.needs_question and self.asked and length > 1:
            raise ValueError(
                f"policy {self.policy.name!r} has chosen by the question already and takes no more than one token at a "
                "time now; give the whole prompt in one call, and each question a cache of its own"
            )
        if not self._unread:
            self._unread, self.memory = [False] * batch, [{} for _ in range(batch)]
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
        if bool((queries.role[:, -1] == PAD).any()):
            raise ValueError(f"policy {self.policy.name!r} finds the prompt's end in the last column: pad on the left")
        if bool((queries.sample > 0).any()):
            raise ValueError(f"policy {self.policy.name!r} serves one sample per row; a row of this call holds more")
        self.asked = self.asked or asks
        ctx.prepared["policy"] = Call(
            keys=keys,
            queries=queries,
            config=config,
            visual=visual[:, None, None],
            columns=[row[:count] for row, count in zip(order, counts, strict=True)],
            events=self._events(queries, counts),
            asks=asks,
            answers=self.asked and ends_in_text,
        )

    def _events(self, queries: TokenLayout, counts: list[int]) -> list[list[Event]]:
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
                        events.append(Event("on_unit", there, place + 1))
                elif role == TEXT and self._unread[row]:
                    self._unread[row] = False
                    events.append(Event("on_text", there, place))
            found.append(events)
        return found

    def attend(self, q: Tensor, ctx: GazeContext, layer: int, scaling: float) -> Tensor:
        """Attention of q [B, H, Q, D] over what each query may see of the cache; returns [B, H, Q, D]."""
        call: Call = ctx.prepared["policy"]
        pages = ctx.cache.layers[layer]
        keys = torch.cat([pages.page_keys.flatten(2, 3), pages.flat_keys], dim=2)
        values = torch.cat([pages.page_values.flatten(2, 3), pages.flat_values], dim=2)
        bare = None
        if self.policy.wants_bare_keys and "bare" in pages.stores:
            bare = torch.cat([pages.stores["bare"].pages.flatten(2, 3), pages.flat_keys], dim=2)
        decided = PolicyLayer(self, call, layer, q, keys, values, bare, ctx, scaling)
        routes = ctx.config.routes(layer) and ctx.layout.num_regions > 0
        out, counts, chosen = [], [], []
        for block, allowed in decided.blocks():
            mine = q[:, :, block]
            if routes:
                regions = choose_of_held(mine, keys, allowed & call.visual, call.keys, _of(ctx, block))
                inside_them = inside(regions, call.keys, call.queries.tokens(block), ctx.config)
                allowed = allowed & inside_them.repeat_interleave(q.shape[1] // inside_them.shape[1], dim=1)
                chosen.append(regions)
            if ctx.recorder is not None:
                counts.append(_count(call, block, allowed))
            out.append(under_mask(mine, keys, values, allowed, scaling, 0.0))
        if ctx.recorder is not None:
            _record(ctx, layer, counts, chosen)
        return out[0] if len(out) == 1 else torch.cat(out, dim=2)

    def grown(self, table: dict[int, Tensor], layer: int, heads: int, length: int, call: Call) -> Tensor:
        """bool [B, heads, length]: a table's entry of a layer, with True for tokens that it does not hold yet."""
        old, device = table.get(layer), call.visual.device
        held = torch.ones(len(call.columns), heads, length, dtype=torch.bool, device=device)
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
        self.memory = [dict(self.memory[row]) for row in index.tolist()]

    def crop(self, length: int) -> None:
        """Forget tokens from `length` on."""
        for table in (self.retained, self.chosen):
            for layer, held in table.items():
                table[layer] = held[:, :, :length]


def _of(ctx: GazeContext, block: slice) -> GazeContext:
    """The context of a block of queries, for choosing."""
    if block.stop - block.start == ctx.layout.shape[1]:
        return ctx
    tokens = torch.arange(block.start, block.stop, device=ctx.layout.role.device)
    return ctx.of_queries(tokens.expand(ctx.layout.shape[0], -1))


def _count(call: Call, block: slice, allowed: Tensor) -> tuple[Tensor, ...]:
    """Visual, context and text entries that a block's queries attend to, int64 [B, H, Q'], and the visual entries
    before each, int64 [B, Q']."""
    role, real = call.keys.role, call.queries.role[:, block] != PAD
    allowed = allowed & real[:, None, :, None]
    counts = [(allowed & (role == r)[:, None, None]).sum(-1) for r in (VISUAL, CONTEXT, TEXT)]
    return *counts, call.before(block)


def _record(ctx: GazeContext, layer: int, counts: list[tuple[Tensor, ...]], chosen: list[Tensor]) -> None:
    """Hand all blocks' counts to the recorder. chosen: regions; empty where the layer does not choose."""
    visual, context, text, before = (torch.cat(parts, dim=-1) for parts in zip(*counts, strict=True))
    regions = torch.cat(chosen, dim=2) if chosen else torch.full_like(visual[:, :1, :, None], -1)
    looking = (ctx.layout.role == TEXT) & (before > 0)
    ctx.recorder.record(layer, regions, visual, context, text, before, looking)
