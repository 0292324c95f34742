"""ReKV: blocks of the cache retrieved once per question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cambrian_gaze.attention.policy.policy import Question, Shown, VisiblePolicy, VisualTokens, top
from cambrian_gaze.baselines.budget import at_least_one
from cambrian_gaze.baselines.static_gaze import region_places, some_of


@dataclass(frozen=True)
class ReKV(VisiblePolicy):
    """ReKV (arXiv 2503.00540), internal retrieval: a block of the video is a frame, described by the mean of its keys
    before RoPE, the heads joined to one vector; the query is the mean over the question's tokens, joined the same way.
    Per layer the `top_k` blocks of the highest inner product are seen during the whole answer. Nothing is evicted.

    Departures: the video is encoded with full causal attention instead of a sliding window; retrieved keys keep their
    positions; `block="region"` retrieves gaze regions instead of frames, for a single image, which is one frame.
    """

    name: ClassVar[str] = "rekv"
    needs_question: ClassVar[bool] = True
    wants_bare_keys: ClassVar[bool] = True

    top_k: int
    """Blocks that are retrieved (64 frames in the paper)."""
    block: Literal["unit", "region"] = "unit"

    def __post_init__(self) -> None:
        at_least_one(self.name, top_k=self.top_k)
        if self.block not in ("unit", "region"):
            raise ValueError(f"policy {self.name!r}: block must be unit or region, got {self.block!r}")

    def on_question(self, tokens: VisualTokens, question: Question) -> Tensor:
        count, place = region_places(tokens.unit if self.block == "unit" else tokens.region)
        means = torch.stack([tokens.bare_keys[:, place == b].float().mean(1) for b in range(count)])
        query = question.bare_queries.float().mean(1).unflatten(0, (len(tokens.keys), -1)).sum(1)
        return top((means * query).sum((1, 2)), self.top_k)[place].expand_as(tokens.retained)

    def attends(self, shown: Shown, layer: int, layers: int) -> tuple[int, int]:
        return some_of(shown.units if self.block == "unit" else shown.regions, self.top_k)
