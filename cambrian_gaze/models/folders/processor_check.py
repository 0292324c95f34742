"""What a processor's files say, checked when it is loaded: its numbers decide how much a picture takes."""

from __future__ import annotations

import math
from typing import Any

MOST_TOKENS = 2**16
"""Visual tokens of a picture; published models have up to 1,024."""
MOST_CONTEXT = 4096
LARGEST_SIDE = 2**14
"""Pixels of a picture's side."""


def check_processor(processor: Any) -> None:
    """Raises: ValueError for a grid, a number of context tokens, a size, a mean, a deviation or a chat template that is
    none, or beyond what any model has."""
    grid, images = processor.grid, processor.image_processor
    if not (len(grid) == 2 and all(_whole(side, 1, MOST_TOKENS) for side in grid) and math.prod(grid) <= MOST_TOKENS):
        raise ValueError(f"the processor's grid must be two whole numbers of up to {MOST_TOKENS} tokens, not {grid!r}")
    if not _whole(processor.num_context_tokens, 0, MOST_CONTEXT):
        told = f"{processor.num_context_tokens!r}"[:80]
        raise ValueError(f"num_context_tokens must be a whole number from 0 to {MOST_CONTEXT}, not {told}")
    size = dict(images.size or {})
    if not all(_whole(size.get(side), 1, LARGEST_SIDE) for side in ("height", "width")):
        raise ValueError(f"the image processor's size must be a height and a width of up to {LARGEST_SIDE}, not {size}")
    for name in ("image_mean", "image_std"):
        values = getattr(images, name)
        if not (isinstance(values, list | tuple) and len(values) == 3 and all(map(_finite, values))):
            raise ValueError(f"the image processor's {name} must be three numbers, not {str(values)[:80]}")
    if not all(images.image_std):
        raise ValueError("the image processor's image_std holds a zero")
    longest = processor.tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float):
        raise ValueError(f"the tokenizer's model_max_length must be a number, not {type(longest).__name__}")
    templates = processor.chat_template
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        if not isinstance(template, str):
            raise ValueError(f"a chat template must be a text, not {type(template).__name__}")
    if not isinstance(processor.system_prompt, str | None):
        raise ValueError(f"system_prompt must be a text, not {type(processor.system_prompt).__name__}")


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
