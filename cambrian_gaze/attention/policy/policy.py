"""`VisiblePolicy`: who of the visual keys stays in memory, and who of those a text query may see.

*Retained* is what is still in memory, per layer and KV head: what was evicted never comes back. *Visible* is what a
query may see now: all that is retained, or less. Text and context keys are always both. Positions keep their ids.
A policy is asked about one row's visual tokens in one layer at a time, so that padding and the rest of the batch have
no influence.
Shapes: G KV heads, H query heads, N visual tokens of a row so far, Q queries of the question, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class VisualTokens:
    """One row's visual tokens in one layer, in the order of the sequence."""

    row: int
    layer: int
    layers: int
    """Decoder layers in all."""
    keys: Tensor
    """[G, N, D], as cached: after RoPE."""
    values: Tensor
    """[G, N, D]."""
    bare_keys: Tensor | None
    """[G, N, D], before RoPE, where the policy `wants_bare_keys`."""
    unit: Tensor
    """int64 [N]: the image or frame of each token, rising."""
    region: Tensor
    """int64 [N]: the gaze region of each token."""
    retained: Tensor
    """bool [G, N]: what has not been evicted."""
    memory: dict[str, Any]
    """Of this row: what the policy wants to remember from layer to layer of one call."""


@dataclass(frozen=True)
class Question:
    """The text after the last visual token, up to the end of the prompt."""

    queries: Tensor
    """[H, Q, D], after RoPE."""
    bare_queries: Tensor | None
    """[H, Q, D], before RoPE, where the policy `wants_bare_keys`."""
    attention: Tensor
    """fp32 [H, Q, N]: weights on the visual tokens, of a softmax over all that each query sees."""


@dataclass(frozen=True)
class Shown:
    """Sizes of what a row shows, for the counts that a policy promises."""

    units: Sequence[int]
    """Visual tokens of each image or frame."""
    regions: Sequence[int]
    """Visual tokens of each gaze region."""

    @property
    def tokens(self) -> int:
        """Visual tokens in all."""
        return sum(self.units)


class UnfitPolicyError(ValueError):
    """A policy's `on_input` says that it cannot serve this model or this call."""


@dataclass(frozen=True)
class VisiblePolicy:
    """Base of all policies: keeps everything and shows everything. The fields of a subclass are its parameters.

    The hooks return bool [G, N], True for what is kept; None: no change.
    """

    name: ClassVar[str] = ""
    needs_question: ClassVar[bool] = False
    """Whether it looks at the question: the whole prompt then has to come in one call, and there is one question."""
    evicts_at_question: ClassVar[bool] = False
    """Whether what `on_question` does not choose leaves the memory."""
    needs_prompt: ClassVar[bool] = False
    """Whether `on_input` looks at the whole prompt, pictures included; no stream can then have it."""
    prunes_prompt: ClassVar[bool] = False
    """Whether what `on_question` chooses holds for all queries of the prompt, not from its last one on."""
    selects: ClassVar[bool] = False
    """Whether `select` is asked at every step."""
    thins: ClassVar[bool] = False
    """Whether `on_arrival` is asked."""
    wants_bare_keys: ClassVar[bool] = False
    routes_on: ClassVar[bool] = False
    """Whether gaze may choose regions among what it leaves."""

    def with_tokenizer(self, tokenizer: Any) -> VisiblePolicy:
        """The policy, with what it needs of a tokenizer."""
        return self

    def on_input(self, model: Any, inputs: Mapping[str, Any]) -> VisiblePolicy:
        """Before the prompt: the policy that serves this call. inputs: what the processor returned.

        Raises: ValueError where it cannot serve this model or these inputs; callers see `UnfitPolicyError`.
        """
        return self

    def on_pixels(self, pixels: Tensor) -> Tensor:
        """What the tower is shown, [N, 3, height, width], in the place of a call's images and frames."""
        return pixels

    def on_features(self, features: Tensor) -> Tensor:
        """What the decoder is given, [N, h, w, D], in the place of a call's visual features."""
        return features

    def on_arrival(self, tokens: VisualTokens) -> Tensor | None:
        """When visual tokens come, before any other query sees them: what stays in memory. Asked where it `thins`; a
        token's own query sees it anyway."""

    def on_unit(self, tokens: VisualTokens) -> Tensor | None:
        """After each image or frame, before anything behind it: what stays in memory."""

    def on_text(self, tokens: VisualTokens) -> Tensor | None:
        """When text follows visual tokens, before it is looked at: what stays in memory."""

    def on_question(self, tokens: VisualTokens, question: Question) -> Tensor | None:
        """At the end of the prompt: what the last query of the prompt and the answer see. May be bool [H, N] where
        nothing is evicted."""

    def select(self, tokens: VisualTokens, query: Tensor) -> Tensor | None:
        """For the last query of the prompt and each of the answer, [H, D]: what it sees, bool [G, N] or [H, N]."""

    def attends(self, shown: Shown, layer: int, layers: int) -> tuple[int, int]:
        """Visual entries that a query of the answer sees per head: least and most."""
        kept = self.retains(shown, layer, layers)
        return kept, kept

    def retains(self, shown: Shown, layer: int, layers: int) -> int:
        """Visual entries in memory per KV head while the answer is given."""
        return shown.tokens

    def check(self, layers: int) -> None:
        """Raises: ValueError where it cannot run in a decoder of so many layers."""


def top(scores: Tensor, count: int) -> Tensor:
    """bool, the shape of scores [..., N]: the `count` highest of the last dimension, ties to the lower place."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)
