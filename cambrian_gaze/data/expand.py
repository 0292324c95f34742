"""The one place where a placeholder becomes its visual and context tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cambrian_gaze.data.conversation import CONTEXT_TOKEN, IMAGE_TOKEN, VIDEO_TOKEN
from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.gaze.token_types import CONTEXT_TYPE, TEXT_TYPE, VISUAL_TYPES

Grid = tuple[int, int, int]
"""(frames, height, width) of one image or video after the projector; frames is 1 for an image."""


class PlaceholderIds(NamedTuple):
    """Token ids that stand for an image patch, a video patch and a context token."""

    image: int
    video: int
    context: int

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> PlaceholderIds:
        """Looks the three tokens up. Raises ValueError when the tokenizer lacks one."""
        tokens = (IMAGE_TOKEN, VIDEO_TOKEN, CONTEXT_TOKEN)
        ids = tokenizer.convert_tokens_to_ids(list(tokens))
        missing = [t for t, i in zip(tokens, ids, strict=True) if i is None or i == tokenizer.unk_token_id]
        if missing:
            raise ValueError(f"the tokenizer lacks {', '.join(missing)}; use a Qwen2.5 or Qwen3 tokenizer, or add them")
        return cls(*ids)


class Expanded(NamedTuple):
    """A sequence after expansion; the three lists are equally long."""

    input_ids: list[int]
    mm_token_type_ids: list[int]
    source: list[int]
    """For each token, the index of the token that it came from: carries labels and offsets over."""


def find_placeholders(ids: Sequence[int], placeholders: PlaceholderIds) -> list[int]:
    """Where the images and videos of a sequence stand, before expansion."""
    return [i for i, token in enumerate(ids) if token in (placeholders.image, placeholders.video)]


def check_grids(ids: Sequence[int], grids: Sequence[Grid], placeholders: PlaceholderIds) -> list[int]:
    """`find_placeholders`, one per grid. Raises RecordError with the counts when `ids` and `grids` disagree."""
    positions = find_placeholders(ids, placeholders)
    if len(positions) != len(grids):
        counts = f"{len(positions)} image and video placeholders, but {len(grids)} images and videos were given"
        raise RecordError(f"the text holds {counts}", "give one image or video per placeholder")
    return positions


def expand_placeholders(
    ids: Sequence[int], grids: Sequence[Grid], placeholders: PlaceholderIds, num_context_tokens: int
) -> Expanded:
    """Replaces the i-th image or video token of `ids` by the tokens of `grids[i]`.

    Each frame (an image is one) gives height·width placeholders and `num_context_tokens` context tokens; nothing is
    put around or between them. Raises RecordError with the counts when `ids` and `grids` disagree.
    """
    positions = check_grids(ids, grids, placeholders)
    out = Expanded([], [], [])
    start = 0
    for position, grid in zip(positions, grids, strict=True):
        _append_text(out, ids, start, position)
        token, (frames, height, width) = ids[position], (int(n) for n in grid)
        kind = "image" if token == placeholders.image else "video"
        visual = VISUAL_TYPES[kind]
        if min(frames, height, width) < 1 or (kind == "image" and frames != 1):
            article = "an" if kind == "image" else "a"
            reason = f"the grid {frames}x{height}x{width} does not fit {article} {kind} placeholder"
            raise RecordError(reason, "an image has the grid 1xHxW, a video TxHxW, all positive")
        patches = height * width
        out.input_ids.extend(([token] * patches + [placeholders.context] * num_context_tokens) * frames)
        out.mm_token_type_ids.extend(([visual] * patches + [CONTEXT_TYPE] * num_context_tokens) * frames)
        out.source.extend([position] * (frames * (patches + num_context_tokens)))
        start = position + 1
    _append_text(out, ids, start, len(ids))
    return out


def _append_text(out: Expanded, ids: Sequence[int], start: int, end: int) -> None:
    out.input_ids.extend(ids[start:end])
    out.mm_token_type_ids.extend([TEXT_TYPE] * (end - start))
    out.source.extend(range(start, end))
