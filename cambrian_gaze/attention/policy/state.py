"""What a `VisiblePolicy` has decided so far: what is retained and visible per layer, row and head.

Shapes: B rows, G KV heads, H query heads, L tokens so far.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cambrian_gaze.attention.policy.call import Call, Event
from cambrian_gaze.attention.policy.policy import VisiblePolicy
from cambrian_gaze.attention.policy.routing import check_gaze
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import CONTEXT, PAD, TEXT, VISUAL, TokenLayout


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

    def read(self, queries: TokenLayout, keys: TokenLayout, config: GazeConfig, length: int, continues: bool) -> Call:
        """Find units, text and the question in a call's layouts, once for all layers.

        Args:
            queries, keys: layouts of the call's tokens and of all that the cache holds, these included.
            config: under the call's options.
            length: tokens of a row in the cache.
            continues: whether the cache held tokens before this call.

        Raises: ValueError for a question in several calls, or a second one, where the policy needs the question; for a
        prompt in several calls where it changes what the prompt sees; for packed rows, and padding on the right.
        """
        batch, new = queries.shape
        if self.policy.needs_question and self.asked and new > 1:
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
        if asks and self.policy.prunes_prompt and continues:
            raise ValueError(
                f"policy {self.policy.name!r} takes tokens out of the prompt's own queries, which have been computed "
                "already; give the whole prompt in one call"
            )
        if bool((queries.role[:, -1] == PAD).any()):
            raise ValueError(f"policy {self.policy.name!r} finds the prompt's end in the last column: pad on the left")
        if bool((queries.sample > 0).any()):
            raise ValueError(f"policy {self.policy.name!r} serves one sample per row; a row of this call holds more")
        self.asked = self.asked or asks
        return Call(
            keys=keys,
            queries=queries,
            config=config,
            visual=visual[:, None, None],
            columns=[row[:count] for row, count in zip(order, counts, strict=True)],
            events=self._events(queries, counts),
            length=length,
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

    def grown(self, table: dict[int, Tensor], layer: int, heads: int, call: Call) -> Tensor:
        """bool [B, heads, L]: a table's entry of a layer, with True for tokens that it does not hold yet."""
        old, device = table.get(layer), call.visual.device
        held = torch.ones(len(call.columns), heads, call.length, dtype=torch.bool, device=device)
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

    def copy(self) -> PolicyState:
        """The state as it is now, which later calls leave alone."""
        found = PolicyState(self.policy, self.layers, self.config)
        found.retained, found.chosen, found.asked = dict(self.retained), dict(self.chosen), self.asked
        found.memory, found._unread = [dict(row) for row in self.memory], list(self._unread)
        return found

    def crop(self, length: int) -> None:
        """Forget tokens from `length` on."""
        for table in (self.retained, self.chosen):
            for layer, held in table.items():
                table[layer] = held[:, :, :length]
