"""A caption said by the model, or put into its mouth token by token: where it looked, and how likely each token was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

LEAST = 1e-6
"""Pixels of a mask in a region from which on they overlap: rounding of areas leaves less."""


@dataclass(frozen=True)
class Said:
    """A caption of T tokens."""

    tokens: list[int]
    text: str
    pieces: list[tuple[int, int]]
    """Characters of each token in the text, blank space before it left out."""
    regions: Tensor
    """int64 [T, L, H, K]: what the query that predicts each token looks at, -1 for none."""
    boxes: list[tuple[int, ...]]
    """See `GazeTrace.region_boxes`."""


class _Forced:
    """A logits processor under which the next token is the caption's."""

    def __init__(self, tokens: Sequence[int], prompt: int) -> None:
        self.tokens, self.prompt = tokens, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.tokens[input_ids.shape[1] - self.prompt]] = 0.0
        return forced


@torch.no_grad()
def say(
    model: Any,
    processor: Any,
    image: Image.Image,
    prompt: str,
    *,
    gaze: dict[str, Any],
    tokens: Sequence[int] | None = None,
    max_new_tokens: int = 512,
) -> Said:
    """A caption of a picture, greedy or given.

    Args:
        tokens: the caption; None: the model's own, of at most `max_new_tokens`, its end token left out.
    """
    inputs = _inputs(processor, image, prompt, 1).to(model.device)
    start = inputs["input_ids"].shape[1]
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens}
    if tokens is not None:
        options = {"max_new_tokens": len(tokens), "logits_processor": [_Forced(tokens, start)]}
    output = model.generate(**inputs, **options, do_sample=False, num_beams=1, gaze=gaze, return_gaze=True)
    new = output.sequences[:, start:]
    if tokens is None:
        ends = model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        tokens = new[0].tolist()
        tokens = tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))]
    length = len(tokens)
    text, pieces = _pieces(list(tokens), processor)
    return Said(list(tokens), text, pieces, output.gaze.regions[0, :length], output.gaze.region_boxes(0))


@torch.no_grad()
def log_probs(
    model: Any,
    processor: Any,
    image: Image.Image,
    prompt: str,
    *,
    gaze: dict[str, Any],
    tokens: Sequence[int],
    hidden: Tensor,
) -> Tensor:
    """Log-probability of each of T caption tokens given those before it, float [N, T], in one pass over the whole.

    Args:
        hidden: bool [N, R], regions that the text queries of each row may not choose.
    """
    inputs = _inputs(processor, image, prompt, len(hidden))
    caption = torch.tensor(tokens).expand(len(hidden), -1)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], caption], 1)
    inputs["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, len(tokens)), value=1)
    inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(tokens)))
    inputs = inputs.to(model.device)
    logits = model(
        **inputs, gaze=gaze, hidden_regions=hidden.to(model.device), logits_to_keep=len(tokens) + 1, use_cache=False
    ).logits[:, :-1]
    return logits.float().log_softmax(-1).gather(-1, caption.to(model.device)[..., None])[..., 0].cpu()


def _inputs(processor: Any, image: Image.Image, prompt: str, rows: int) -> Any:
    content = [{"type": "image", "image": image}, {"type": "text", "text": f"\n{prompt}"}]
    messages = [[{"role": "user", "content": content}]] * rows
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)


def _pieces(tokens: list[int], processor: Any) -> tuple[str, list[tuple[int, int]]]:
    texts = [processor.decode(tokens[:n], skip_special_tokens=True) for n in range(len(tokens) + 1)]
    whole, pieces = texts[-1], []
    for before, after in zip(texts, texts[1:], strict=False):
        start, end = len(before), len(after)
        while start < end and whole[start].isspace():
            start += 1
        pieces.append((start, end))
    return whole, pieces


def phrase_of_tokens(pieces: Sequence[tuple[int, int]], places: Sequence[Sequence[tuple[int, int]]]) -> list[int]:
    """The phrase that each token belongs to: the one that holds most of its characters, the earlier of equals, -1 where
    none holds any.

    Args:
        places: per phrase its spans in the text.
    """
    owners = []
    for start, end in pieces:
        shares = [sum(max(0, min(end, b) - max(start, a)) for a, b in spans) for spans in places]
        best = max(range(len(shares)), key=lambda place: shares[place], default=-1)
        owners.append(best if best >= 0 and shares[best] > 0 else -1)
    return owners
