"""The decoder's positions: what a prompt and its answer may take. One check for all that generates."""

from __future__ import annotations

from typing import Any


def check_positions(config: Any, prompt: int, new: int = 0) -> int:
    """How many tokens an answer may have after a prompt of `prompt` tokens, visual ones included.

    Args:
        config: a `CambrianGazeConfig`.
        new: tokens of answer that are asked for.

    Raises: ValueError where prompt and answer exceed the decoder's positions: beyond them it was never trained.
    """
    positions = config.text_config.max_position_embeddings
    if prompt + new > positions:
        shorter = "shorten the text, or show fewer images or frames"
        remedy = "ask for a shorter answer" if prompt < positions else shorter
        raise ValueError(
            f"{prompt} tokens of prompt and {new} of answer exceed the {positions} positions of the decoder; {remedy}"
        )
    return positions - prompt
