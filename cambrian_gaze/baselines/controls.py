"""Controls that look at nothing: tokens at random, evenly spaced, or the most recent ones.

All evict when text follows visual tokens, so before the question is known; the text sees what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cambrian_gaze.attention.policy.policy import VisualTokens, top
from cambrian_gaze.baselines.budget import BudgetPolicy


@dataclass(frozen=True)
class Random(BudgetPolicy):
    """Tokens at random, drawn anew for each layer and KV head; for one seed the same places in every row, so that an
    answer does not depend on its batch."""

    name: ClassVar[str] = "random"
    routes_on: ClassVar[bool] = True

    seed: int = 0

    def on_text(self, tokens: VisualTokens) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + tokens.layer)
        # One column after the other: the numbers of the first tokens do not depend on how many there are.
        rank = torch.rand(tokens.retained.T.shape, generator=generator).T.to(tokens.keys.device)
        return top(rank.masked_fill(~tokens.retained, -torch.inf), self.budget)


@dataclass(frozen=True)
class Uniform(BudgetPolicy):
    """Tokens evenly spaced over all that is left, in the order of the sequence: number ⌊i·N / budget⌋ for each i."""

    name: ClassVar[str] = "uniform"
    routes_on: ClassVar[bool] = True

    def on_text(self, tokens: VisualTokens) -> Tensor:
        place = tokens.retained.long().cumsum(1) - 1
        count = tokens.retained.sum(1, keepdim=True)
        if count.max() <= self.budget:
            return tokens.retained
        # Token `place` is ⌊i·N / budget⌋ of some i: the first with i·N ≥ place·budget, if it is below (place+1)·budget.
        first = -(-place * self.budget // count) * count
        return tokens.retained & (first < (place + 1) * self.budget)


@dataclass(frozen=True)
class Recent(BudgetPolicy):
    """The last tokens: a sliding window over the visual tokens."""

    name: ClassVar[str] = "recent"
    routes_on: ClassVar[bool] = True

    def on_text(self, tokens: VisualTokens) -> Tensor:
        behind = tokens.retained.flip(1).long().cumsum(1).flip(1)
        return tokens.retained & (behind <= self.budget)
