"""What the layers of one forward call under a policy share.

Shapes: B rows, H query heads, Q' queries of a block, S keys, N visual tokens of a row, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import PAD, TokenLayout
from cambrian_gaze.gaze.visibility import structure


class Event(NamedTuple):
    """A moment at which a policy is asked what stays in memory."""

    hook: Literal["on_unit", "on_text"]
    tokens: int
    """The row's visual tokens that there are by then."""
    start: int
    """First query of the call for which it counts."""


@dataclass(frozen=True)
class Call:
    """Made once for all layers, from the layouts."""

    keys: TokenLayout
    """Layout of [page slots, text and context columns]."""
    queries: TokenLayout
    config: GazeConfig
    visual: Tensor
    """bool [B, 1, 1, S]: which keys are visual."""
    columns: list[Tensor]
    """Per row, int64 [N]: its visual tokens among the keys, in the order of the sequence."""
    events: list[list[Event]]
    length: int
    """Tokens of a row so far, padding included."""
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
