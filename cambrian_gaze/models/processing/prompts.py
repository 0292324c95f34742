"""Prompts to token ids, with one placeholder per picture or video."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cambrian_gaze.data.conversation import IMAGE_TOKEN, VIDEO_TOKEN
from cambrian_gaze.data.encode import tokenize_segments
from cambrian_gaze.data.expand import PlaceholderIds
from cambrian_gaze.models.processing.messages import RenderedChat
from cambrian_gaze.models.processing.pictures import short

PromptIds = tuple[list[int], list[bool]]
"""Ids of a prompt, and which of them an assistant said."""

_HEAD = re.compile(r"(<\|im_start\|>(?:system|user|assistant)\n)")


def prompt_ids(prompts: Sequence[str], tokenizer: Any, pictures_given: bool) -> list[PromptIds]:
    """The ids of each prompt. User text in a `RenderedChat` never becomes a special token.

    Args:
        pictures_given: `<image>` and `<video>` stand for pictures where no prompt holds a placeholder token, also in a
            chat that somebody else has rendered.

    Raises: ValueError for a prompt that is no string.
    """
    placeholders = PlaceholderIds.from_tokenizer(tokenizer)
    tokens = any(token in prompt for prompt in prompts for token in (IMAGE_TOKEN, VIDEO_TOKEN))
    rows = []
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ValueError(f"text must be a prompt or a list of prompts, got {short(prompt)}")
        if isinstance(prompt, RenderedChat):
            pieces = tokenize_segments(prompt.segments, tokenizer, placeholders)
            said = [s.supervised for s, piece in zip(prompt.segments, pieces, strict=True) for _ in piece]
            rows.append(([i for piece in pieces for i in piece], said))
            continue
        if not tokens and (pictures_given or "<|im_start|>" not in prompt):
            prompt = prompt.replace("<image>", IMAGE_TOKEN).replace("<video>", VIDEO_TOKEN)
        # Cut where training cuts, so that a line break at the head of a message joins none before it.
        pieces = [piece for piece in _HEAD.split(prompt) if piece]
        ids = [i for piece in pieces for i in tokenizer.encode(piece, add_special_tokens=False)]
        rows.append((ids, [False] * len(ids)))
    return rows
