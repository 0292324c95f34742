"""InfiniPot-V: streaming compression by redundancy over time and by value norms, blind to the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cambrian_gaze.attention.policy.policy import Shown, VisiblePolicy, VisualTokens, top
from cambrian_gaze.baselines.budget import at_least_one, between


@dataclass(frozen=True)
class InfiniPotV(VisiblePolicy):
    """InfiniPot-V (arXiv 2506.15745). Whenever `block` frames are in memory they are compressed to `keep` frames'
    tokens, per layer and KV head. TaR: the last `query_ratio` of the frames stay, and of the older ones the tokens
    least like them (−mean cosine of the keys at the same place), up to the share `tar_ratio` of what is kept. VaN: the
    rest goes to the largest value norms.

    Blind to the question, and a single image passes untouched. `budget` is the port to images: when text follows,
    what is in memory is cut to that many tokens by VaN alone. Departures: no pooling of the value norms; positions
    keep their ids. After the first compression a head's `keep` frames are its tokens in their order, cut to frames, as
    in the authors' code.
    """

    name: ClassVar[str] = "infinipot_v"
    routes_on: ClassVar[bool] = True

    block: int = 32
    """Frames in memory that start a compression."""
    keep: int = 24
    """Frames' tokens that it leaves."""
    tar_ratio: float = 0.5
    query_ratio: float = 0.25
    budget: int | None = None
    """Visual tokens per KV head once text follows; None: what the frames left."""

    def __post_init__(self) -> None:
        at_least_one(self.name, block=self.block, keep=self.keep)
        between(self.name, 0, 1, tar_ratio=self.tar_ratio, query_ratio=self.query_ratio)
        if self.budget is not None:
            at_least_one(self.name, budget=self.budget)
        if self.keep >= self.block:
            raise ValueError(f"policy {self.name!r}: keep must be below block, got {self.keep} of {self.block} frames")
        if self.tar_ratio and int(self.block * self.query_ratio) > self.tar_ratio * self.keep:
            raise ValueError(
                f"policy {self.name!r}: the last {int(self.block * self.query_ratio)} frames stay, and are more than "
                f"TaR's share of {self.tar_ratio * self.keep:g}; lower query_ratio, or raise tar_ratio"
            )

    def on_unit(self, tokens: VisualTokens) -> Tensor | None:
        sizes = tokens.unit.unique(return_counts=True)[1]
        each = int(sizes[0])
        if bool((sizes != each).any()):
            raise ValueError(f"policy {self.name!r} compares frames place by place: all must have one size")
        held = tokens.retained.sum(1)
        if int(held[0]) < self.block * each:
            return None
        # Heads hold different tokens, but equally many.
        at = tokens.retained.nonzero()[:, 1].view(len(held), -1)
        keys, values = (x.gather(1, at[..., None].expand(-1, -1, x.shape[2])) for x in (tokens.keys, tokens.values))
        kept = self.compress(keys, values, each)
        return torch.zeros_like(tokens.retained).scatter_(1, at, kept)

    def compress(self, keys: Tensor, values: Tensor, each: int) -> Tensor:
        """Which tokens of [G, frames·each, D] stay: bool [G, frames·each], `keep`·each per head."""
        frames = keys.shape[1] // each
        norms = values.float().norm(dim=-1)
        asking = int(frames * self.query_ratio)
        if self.tar_ratio and asking:
            by_tar = self.keep * each - round((1 - self.tar_ratio) * self.keep * each)
            units = normalize(keys.float(), dim=-1).unflatten(1, (frames, each))
            old, recent = units[:, :-asking], units[:, -asking:]
            # The mean of cosines is the product with the mean of the recent frames' unit keys.
            unlike = -(old * recent.mean(1, keepdim=True)).sum(-1).flatten(1)
            first = torch.ones_like(norms, dtype=torch.bool)
            first[:, : unlike.shape[1]] = top(unlike, by_tar - asking * each)
            norms = norms.masked_fill(first, torch.inf)
        return top(norms, self.keep * each)

    def on_text(self, tokens: VisualTokens) -> Tensor | None:
        if self.budget is None:
            return None
        return top(tokens.values.float().norm(dim=-1).masked_fill(~tokens.retained, -1.0), self.budget)

    def retains(self, shown: Shown, layer: int, layers: int) -> int:
        held = 0
        for _ in shown.units:
            held = self.keep if held + 1 == self.block else held + 1
        left = held * shown.units[0] if shown.units else 0
        return left if self.budget is None else min(self.budget, left)
