"""Positions and masks of callers: what a prompt and its answer may take, one check for all that generates; and what
`position_ids` and `attention_mask` of a forward call say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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


@torch.compiler.disable
def packed_samples(position_ids: Tensor | None, inputs_embeds: Tensor) -> Tensor | None:
    """`sample_ids` int64 [B, S] of rows whose positions begin anew where another sample does, as packing collators and
    transformers' own models have it; None where every row is one sample.

    Args:
        position_ids: int64 [B, S] or [1, S], of a call without mask and cache.
        inputs_embeds: [B, S, width].
    """
    if position_ids is None or position_ids.dim() != 2:
        return None
    begins = position_ids.diff(dim=1, prepend=position_ids[:, :1] - 1) != 1
    return begins.cumsum(1).expand(inputs_embeds.shape[0], -1) if begins.any() else None


def own_mask(attention_mask: Tensor | None, inputs_embeds: Tensor, cached: bool) -> Tensor:
    """[B, S] of this call's tokens, 0 for padding, out of a mask [B, S], or [B, the whole row so far] with a cache.

    Raises: ValueError for a mask of another shape.
    """
    rows, length = inputs_embeds.shape[:2]
    if attention_mask is None:
        return torch.ones((rows, length), dtype=torch.int64, device=inputs_embeds.device)
    shape = tuple(attention_mask.shape)
    if len(shape) != 2 or shape[0] != rows or shape[1] < length or (shape[1] > length and not cached):
        raise ValueError(
            f"attention_mask must be [{rows}, {length}], 0 for padding and 1 elsewhere"
            f"{', or as long as the whole row with a cache' if cached else ''}, got {list(shape)}; who sees whom is "
            "the gaze's to say, and sample_ids keeps the samples of a packed row apart"
        )
    return attention_mask[:, -length:]
