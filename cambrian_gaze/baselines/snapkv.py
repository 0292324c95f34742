"""SnapKV-like eviction: tokens chosen once, by the question's attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import avg_pool1d

from cambrian_gaze.attention.policy.policy import Question, VisualTokens, top
from cambrian_gaze.baselines.budget import BudgetPolicy, at_least_one


@dataclass(frozen=True)
class SnapKV(BudgetPolicy):
    """SnapKV (arXiv 2404.14469), for visual tokens: per layer and KV head those with the highest attention weight, as
    the mean over the question's tokens and the query heads of the KV head, stay; the others are evicted, once.

    After the paper: selection by the attention of an observation window at the end of the prompt, pooled over
    neighbours (`kernel`, average), per head. Departures: the window is the text after the last visual token, whatever
    its length (`window` limits it; the paper has 16 to 64 tokens); only visual tokens are evicted; heads that share a
    KV head choose together; the last query of the prompt, which yields the answer's first token, is already limited
    to what it chose; `kernel` is 1 by default (the paper has 5 or 7 for text), since neighbours in a row of the grid
    are no neighbours in the text's sense.
    """

    name: ClassVar[str] = "snapkv"
    needs_question: ClassVar[bool] = True
    evicts_at_question: ClassVar[bool] = True

    window: int | None = None
    """The last tokens of the question whose attention counts; None: all."""
    kernel: int = 1
    """Width of the average over neighbouring tokens, odd."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self.name, kernel=self.kernel, **({} if self.window is None else {"window": self.window}))
        if self.kernel % 2 == 0:
            raise ValueError(f"policy {self.name!r}: kernel must be odd, got {self.kernel}")

    def on_question(self, tokens: VisualTokens, question: Question) -> Tensor:
        weights = question.attention if self.window is None else question.attention[:, -self.window :]
        scores = weights.mean(1).unflatten(0, (len(tokens.keys), -1)).mean(1)
        if self.kernel > 1:
            scores = avg_pool1d(scores[None], self.kernel, stride=1, padding=self.kernel // 2)[0]
        return top(scores.masked_fill(~tokens.retained, -1.0), self.budget)
