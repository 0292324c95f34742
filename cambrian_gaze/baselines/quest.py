"""Quest: pages chosen anew at every step, by an upper bound of their attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cambrian_gaze.attention.policy.policy import Shown, VisiblePolicy, VisualTokens, top
from cambrian_gaze.baselines.budget import at_least_one
from cambrian_gaze.baselines.static_gaze import region_places, some_of


@dataclass(frozen=True)
class Quest(VisiblePolicy):
    """Quest (arXiv 2406.10774), for visual tokens: per layer and query head the `top_k` pages of the highest
    Σ_d max(q_d·min_d, q_d·max_d) over the page's keys, at every step of the answer. Nothing is evicted.

    Departures: a page is a gaze region instead of 16 tokens in a row; text is always seen; the last query of the prompt
    selects too. The paper leaves the first two layers dense: `dense_layers`, 0 here so that the budget holds in every
    layer. With 0 it is what a gaze model does with `descriptor: minmax` and a prompt that does not route.
    """

    name: ClassVar[str] = "quest"
    needs_question: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    top_k: int
    """Pages per query head."""
    dense_layers: int = 0
    """First layers that see everything."""

    def __post_init__(self) -> None:
        at_least_one(self.name, top_k=self.top_k)
        if not isinstance(self.dense_layers, int) or self.dense_layers < 0:
            raise ValueError(f"policy {self.name!r}: dense_layers must be an integer from 0, got {self.dense_layers!r}")

    def select(self, tokens: VisualTokens, query: Tensor) -> Tensor | None:
        if tokens.layer < self.dense_layers:
            return None
        count, place = region_places(tokens.region)
        keys = [tokens.keys[:, place == r].float() for r in range(count)]
        bounds = torch.stack([x.amin(1) for x in keys], dim=1), torch.stack([x.amax(1) for x in keys], dim=1)
        low, high = (bound.repeat_interleave(len(query) // len(bound), dim=0) for bound in bounds)
        asked = query.float()[:, None]
        return top(torch.maximum(asked * low, asked * high).sum(-1), self.top_k)[:, place]

    def attends(self, shown: Shown, layer: int, layers: int) -> tuple[int, int]:
        return (shown.tokens,) * 2 if layer < self.dense_layers else some_of(shown.regions, self.top_k)
