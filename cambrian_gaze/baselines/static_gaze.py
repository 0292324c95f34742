"""Gaze without the second look: each head's regions are chosen once, from the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cambrian_gaze.attention.policy.policy import Question, Shown, VisiblePolicy, VisualTokens, top
from cambrian_gaze.baselines.budget import at_least_one


@dataclass(frozen=True)
class StaticGaze(VisiblePolicy):
    """Regions as gaze attention has them, the same descriptors (means of cached keys) and the same choice of `top_k`
    per layer and query head, but made once: by the mean query of the question, and then frozen for the whole answer.
    Nothing is evicted. An ablation of re-selection; no published method.
    """

    name: ClassVar[str] = "static_gaze"
    needs_question: ClassVar[bool] = True

    top_k: int
    """Regions per query head."""

    def __post_init__(self) -> None:
        at_least_one(self.name, top_k=self.top_k)

    def on_question(self, tokens: VisualTokens, question: Question) -> Tensor:
        count, place = region_places(tokens.region)
        means = torch.stack([tokens.keys[:, place == r].float().mean(1) for r in range(count)], dim=1)
        by_head = means.repeat_interleave(len(question.queries) // len(means), dim=0)
        scores = (by_head @ question.queries.float().mean(1)[:, :, None])[..., 0]
        return top(scores, self.top_k)[:, place]

    def attends(self, shown: Shown, layer: int, layers: int) -> tuple[int, int]:
        return some_of(shown.regions, self.top_k)


def region_places(region: Tensor) -> tuple[int, Tensor]:
    """How many regions there are, and which of them, in rising order, each token of int64 [N] belongs to."""
    found, place = region.unique(return_inverse=True)
    return len(found), place


def some_of(sizes: tuple[int, ...], count: int) -> tuple[int, int]:
    """Least and most tokens that `count` of the groups of these sizes hold."""
    rising = sorted(sizes)
    return sum(rising[:count]), sum(rising[-count:])
