"""FastV: visual tokens leave the deeper layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cambrian_gaze.attention.policy.policy import Question, Shown, VisiblePolicy, VisualTokens, top
from cambrian_gaze.baselines.budget import at_least_one, between


@dataclass(frozen=True)
class FastV(VisiblePolicy):
    """FastV (arXiv 2403.06764): from layer `layer` on the prompt goes on without the share `ratio` of its visual
    tokens, those with the lowest attention of the prompt's last token in the layer before, as the mean over heads.

    After the paper: K = 2 or 3, R = 50 %; layers count from 0 here, so that `layer=3` is K = 3. Below `layer` all is
    seen, hence the budget is a mean over the layers. A dropped token is hidden from every later query of the deeper
    layers, which is the same as dropping it from the sequence. `budget` says how many tokens stay instead of a share.
    """

    name: ClassVar[str] = "fastv"
    needs_question: ClassVar[bool] = True
    evicts_at_question: ClassVar[bool] = True
    prunes_prompt: ClassVar[bool] = True

    layer: int = 3
    """K: the first layer that sees less."""
    ratio: float = 0.5
    """R: the share that is dropped."""
    budget: int | None = None
    """Visual tokens that stay from there on, instead of `ratio`."""

    def __post_init__(self) -> None:
        at_least_one(self.name, layer=self.layer, **({} if self.budget is None else {"budget": self.budget}))
        between(self.name, 0, 1, ratio=self.ratio)

    def check(self, layers: int) -> None:
        if self.layer >= layers:
            raise ValueError(
                f"policy {self.name!r}: layer {self.layer} is beyond a decoder of {layers} layers, so that nothing "
                "would be dropped; name a layer from 1 up"
            )

    def on_question(self, tokens: VisualTokens, question: Question) -> Tensor | None:
        if tokens.layer == self.layer - 1:
            scores = question.attention[:, -1].mean(0)
            tokens.memory["kept"] = top(scores, self._kept(len(scores)))
        return tokens.memory["kept"].expand_as(tokens.retained) if tokens.layer >= self.layer else None

    def retains(self, shown: Shown, layer: int, layers: int) -> int:
        return self._kept(shown.tokens) if layer >= self.layer else shown.tokens

    def _kept(self, count: int) -> int:
        return min(count, round((1 - self.ratio) * count) if self.budget is None else self.budget)
