"""Whether the placeholders of a text are those that the grids of its images and videos need."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cambrian_gaze.gaze.token_types import CONTEXT_TYPE, IMAGE_TYPE


class Frames(NamedTuple):
    """The visual and context tokens of a call, flat over its rows, and the frames that they belong to."""

    where: Tensor
    """int64 [N], places among the B·L tokens."""
    kinds: Tensor
    """int64 [N], their `mm_token_type_ids`."""
    frame_of: Tensor
    """int64 [N], numbers of their frames."""
    starts: Tensor
    """int64 [frames], each frame's first of the N."""
    tokens: Tensor
    """int64 [frames], how many of the N each frame has."""


def check_counts(kinds: Tensor, grids: list[tuple[int, int, int]], context: int, found: int) -> None:
    frames = sum(t for t, _, _ in grids)
    want_visual = sum(t * h * w for t, h, w in grids)
    have_visual = int((kinds != CONTEXT_TYPE).sum())
    have_context = found - have_visual
    if have_visual != want_visual or have_context != frames * context:
        raise ValueError(
            f"the text holds {have_visual} visual and {have_context} context placeholders, but the {len(grids)} grids "
            f"given ({frames} images or frames, |C|={context}) need {want_visual} and {frames * context}; "
            "check that grid_thw counts tokens after the projector and that processor and model agree on |C|"
        )


def check_runs(frames: Frames, grids: list[tuple[int, int, int]], context: int, sample: Tensor) -> None:
    """Each unit is one unbroken run of h·w visual and |C| context placeholders; frames of a video are adjacent."""
    where, kinds, frame_of, starts, frame_tokens = frames
    length, sample = sample.shape[1], sample.flatten()
    offset = torch.arange(len(where)) - starts[frame_of]
    is_context = offset >= (frame_tokens[frame_of] - context)
    item_of_frame = torch.repeat_interleave(torch.arange(len(grids)), torch.tensor([t for t, _, _ in grids]))
    item = item_of_frame[frame_of]
    item_start = torch.searchsorted(item, torch.arange(len(grids)))
    modality = kinds[item_start]
    wrong = (kinds == CONTEXT_TYPE) != is_context
    wrong |= ~is_context & (kinds != modality[item])
    broken = torch.zeros_like(wrong)
    same = item[1:] == item[:-1]
    torn = (where[1:] != where[:-1] + 1) | (where[1:] // length != where[:-1] // length)
    broken[1:] = same & (torn | (sample[where[1:]] != sample[where[:-1]]))
    bad = (wrong | broken).nonzero().flatten()
    if len(bad):
        first = int(bad[0])
        number = int(item[first])
        t, h, w = grids[number]
        raise ValueError(
            f"row {int(where[first]) // length}, token {int(where[first]) % length}: the placeholders of item {number} "
            f"are not the unbroken run of {t} × ({h}·{w} visual + {context} context) that its grid {(t, h, w)} needs"
        )
    many = [i for i, (t, _, _) in enumerate(grids) if t > 1 and int(modality[i]) == IMAGE_TYPE]
    if many:
        raise ValueError(f"item {many[0]} has {grids[many[0]][0]} frames but its placeholders are image placeholders")
