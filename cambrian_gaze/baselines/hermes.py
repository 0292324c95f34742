"""HERMES: layers as short, middle and long memory; tokens kept by age and by what generic prompts attend to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from cambrian_gaze.attention.policy.policy import Question, VisiblePolicy, VisualTokens, top
from cambrian_gaze.attention.policy.state import PolicyState
from cambrian_gaze.baselines.budget import BudgetPolicy, between
from cambrian_gaze.models.cache.cache import GazeCache

LOCAL = (
    "Describe the current scene in detail, focusing on specific objects, fine-grained actions, and spatial "
    "relationships."
)
WHOLE = (
    "Summarize the video narrative, identifying main characters, key events, timeline changes, and the overall theme."
)
SMOOTHING = {"short": 0.1, "middle": 0.3, "long": 0.4}
"""γ: how much of a layer's scores is that of the layer above."""


@dataclass(frozen=True)
class Hermes(BudgetPolicy):
    """HERMES (arXiv 2601.14724). Each layer keeps the `budget` visual tokens of the highest
    (1−α)·minmax(attention of a generic prompt) + α·minmax(exp(−k·age)), the same for all its KV heads. The first
    `short` of the layers have α=1, k=20; the last `long` α=0; between them α falls from 1 to .1 and k from 20 to .5.
    Short layers ask by a prompt about the scene, long ones by one about the whole, middle ones by both. Then from the
    top layer down each takes over a part γ of the scores above it.

    Blind to the question: the generic prompts are run behind the last image or frame, in passes of their own.
    Departures: it evicts once, when all images and frames of the prompt are there, instead of each time a stream
    overflows; long layers keep one token more instead of a summary of those they evict; positions keep their ids; the
    two prompts of the middle layers are joined by a blank, in the authors' code by "; ".
    """

    name: ClassVar[str] = "hermes"
    routes_on: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    short: float = 0.1
    long: float = 0.3
    local: str = LOCAL
    whole: str = WHOLE
    token_ids: tuple[tuple[int, ...], ...] = field(default=(), metadata={"option": False})
    """Of the three prompts: scene, whole, both."""
    kept: Mapping[tuple[int, int], Tensor] = field(default_factory=dict, compare=False, metadata={"option": False})
    """By row and layer, bool [N]: made by `on_input` for one call."""

    def __post_init__(self) -> None:
        super().__post_init__()
        between(self.name, 0, 1, short=self.short, long=self.long)

    def with_tokenizer(self, tokenizer: Any) -> Hermes:
        prompts = self.local, self.whole, f"{self.local} {self.whole}"
        ids = tuple(tuple(tokenizer.encode(text, add_special_tokens=False)) for text in prompts)
        return dataclasses.replace(self, token_ids=ids)

    def on_input(self, model: Any, inputs: Mapping[str, Any]) -> Hermes:
        """Raises: ValueError without the prompts' tokens, and where `generate` would repeat rows."""
        if not self.token_ids:
            raise ValueError("policy 'hermes' asks by prompts of its own: give policy.with_tokenizer(tokenizer)")
        settings = inputs.get("generation_config") or model.generation_config
        for option in ("num_beams", "num_return_sequences"):
            if (inputs.get(option) or getattr(settings, option, None) or 1) > 1:
                raise ValueError(f"policy 'hermes' chose for each row of the prompt before: leave {option} out")
        if inputs.get("input_ids") is None or inputs.get("mm_token_type_ids") is None:
            return self
        heard = [_attention(model, inputs, ids) for ids in self.token_ids]
        kept = {}
        layers = model.config.text_config.num_hidden_layers
        for row in {row for row, _ in heard[0]}:
            scores = self.scores([tuple(one[row, layer] for one in heard) for layer in range(layers)])
            kept |= {(row, layer): top(score, self.budget) for layer, score in enumerate(scores)}
        return dataclasses.replace(self, kept=kept)

    def kind(self, layer: int, layers: int) -> str:
        """`short`, `middle` or `long`."""
        if layer < int(self.short * layers):
            return "short"
        return "middle" if layer < self._long_from(layers) else "long"

    def _long_from(self, layers: int) -> int:
        return int(round((1 - self.long) * layers, 6))

    def scores(self, attention: Sequence[tuple[Tensor, Tensor, Tensor]]) -> list[Tensor]:
        """fp32 [N] per layer, of the attention [N] of the three prompts in each."""
        layers, found = len(attention), []
        first, end = int(self.short * layers), self._long_from(layers)
        for layer, (local, whole, both) in enumerate(attention):
            kind = self.kind(layer, layers)
            mean = {"short": local, "middle": both, "long": whole}[kind]
            progress = {"short": 0.0, "middle": (layer - first) / max(1, end - first), "long": 1.0}[kind]
            alpha = 0.0 if kind == "long" else 1 - 0.9 * progress
            age = torch.linspace(1, 0, len(mean), device=mean.device) if len(mean) > 1 else torch.zeros_like(mean)
            recent = torch.exp(-(20 - 19.5 * progress) * age)
            found.append((1 - alpha) * _minmax(mean) + alpha * _minmax(recent))
        for layer in reversed(range(layers - 1)):
            part = SMOOTHING[self.kind(layer, layers)]
            found[layer] = (1 - part) * found[layer] + part * found[layer + 1]
        return found

    def on_text(self, tokens: VisualTokens) -> Tensor | None:
        if not self.kept:
            raise ValueError("policy 'hermes' chooses before the prompt: on_input was not called, as `generate` does")
        kept = self.kept.get((tokens.row, tokens.layer))
        if kept is None or len(kept) != tokens.retained.shape[1]:
            return None  # more images or frames are to come
        return kept.expand_as(tokens.retained)


@dataclass(frozen=True)
class _Listener(VisiblePolicy):
    """Keeps what the question attends to, and hides nothing."""

    name: ClassVar[str] = "hermes"
    needs_question: ClassVar[bool] = True

    heard: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def on_question(self, tokens: VisualTokens, question: Question) -> None:
        self.heard[tokens.row, tokens.layer] = question.attention.mean((0, 1))


def _attention(model: Any, inputs: Mapping[str, Any], prompt: Sequence[int]) -> dict[tuple[int, int], Tensor]:
    """By row and layer, fp32 [N]: mean attention of a prompt's tokens and heads to the visual tokens before it."""
    ids, types = inputs["input_ids"], inputs["mm_token_type_ids"]
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    asked = torch.tensor(prompt, device=ids.device)
    rows = []
    for row in range(len(ids)):
        visual = types[row].nonzero().flatten()
        before = torch.arange(len(ids[row]), device=ids.device) <= (visual[-1] if len(visual) else -1)
        taken = before & mask[row].bool()
        rows.append((torch.cat([ids[row][taken], asked]), torch.cat([types[row][taken], torch.zeros_like(asked)])))
    longest = max(len(tokens) for tokens, _ in rows)

    def padded(parts: list[Tensor]) -> Tensor:
        return torch.stack([torch.nn.functional.pad(part, (longest - len(part), 0)) for part in parts])

    listener = _Listener()
    config = model.model.resolve_gaze(inputs.get("gaze")).override(keep_ratio=1.0, min_keep_ratio=0.0)
    state = PolicyState(listener, model.config.text_config.num_hidden_layers, config)
    model.model(
        input_ids=padded([tokens for tokens, _ in rows]),
        mm_token_type_ids=padded([kinds for _, kinds in rows]),
        attention_mask=padded([torch.ones_like(tokens) for tokens, _ in rows]),
        pixel_values=inputs.get("pixel_values"),
        grid_thw=inputs.get("grid_thw"),
        cache=GazeCache(config, state),
        use_cache=True,
        gaze=config,
    )
    return listener.heard


def _minmax(x: Tensor) -> Tensor:
    return (x - x.min()) / (x.max() - x.min() + 1e-6)
