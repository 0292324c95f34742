"""A conversation to ids, labels and token types. Training and inference share this, so their ids agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from cambrian_gaze.data.conversation import PLACEHOLDERS, Message, Segment, Visual, render
from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.expand import Grid, PlaceholderIds, check_grids, expand_placeholders
from cambrian_gaze.gaze.token_types import IGNORED_LABEL, TEXT_TYPE

OVERLONG = ("quarantine", "truncate_text", "drop", "fewer_frames")
"""What may happen to a sample longer than the limit: left out and logged; its text cut at the end; left out and
counted; its video sampled again with the most frames that fit (a sample without a video is left out and logged)."""


class OverlongError(RecordError):
    """A sample that is longer than the limit and stays so."""

    kind = "overlong"


_CONTROL_IDS: WeakKeyDictionary[Any, dict[str, list[int]]] = WeakKeyDictionary()
"""Per tokenizer, the ids of the few control texts: they are half of all segments."""


class TokenizedConversation(NamedTuple):
    """A conversation rendered and tokenised, one placeholder per image or video: all that its grids do not decide."""

    ids: list[int]
    labels: list[int]
    """As long as `ids`, not shifted."""
    visuals: list[Visual]
    """Kind of each image and video, in order of appearance."""
    placeholders: PlaceholderIds

    def count_tokens(self, grids: Sequence[Grid], num_context_tokens: int) -> int:
        """Tokens that `expand` gives. Raises RecordError when placeholders and grids disagree in number."""
        check_grids(self.ids, grids, self.placeholders)
        visual = sum(frames * (height * width + num_context_tokens) for frames, height, width in grids)
        return len(self.ids) - len(grids) + visual

    def expand(self, grids: Sequence[Grid], num_context_tokens: int) -> dict[str, list[int]]:
        """`input_ids`, `labels` (not shifted) and `mm_token_type_ids`, three lists of one length.

        `grids`: (frames, height, width) after the projector of each image and video, in order of appearance.
        Raises RecordError when placeholders and grids disagree in number.
        """
        expanded = expand_placeholders(self.ids, grids, self.placeholders, num_context_tokens)
        return {
            "input_ids": expanded.input_ids,
            "labels": [self.labels[i] for i in expanded.source],
            "mm_token_type_ids": expanded.mm_token_type_ids,
        }


def tokenize_conversation(
    messages: Sequence[Message], tokenizer: Any, *, add_generation_prompt: bool = False
) -> TokenizedConversation:
    """Renders and tokenises a conversation, once for whatever its pictures turn out to be.

    What people wrote never becomes a special token: `<|im_end|>` or `<|image_pad|>` in a message stays plain text. The
    ids of a prompt with its generation prompt are a prefix of the ids of the same conversation with its answer.
    Raises RecordError on malformed messages.
    """
    placeholders = PlaceholderIds.from_tokenizer(tokenizer)
    ids: list[int] = []
    labels: list[int] = []
    segments = render(messages, add_generation_prompt)
    for segment, piece in zip(segments, tokenize_segments(segments, tokenizer, placeholders), strict=True):
        ids += piece
        labels += piece if segment.supervised else [IGNORED_LABEL] * len(piece)
    return TokenizedConversation(ids, labels, [s.kind for s in segments if s.kind in PLACEHOLDERS], placeholders)


def encode_conversation(
    messages: Sequence[Message],
    tokenizer: Any,
    grids: Sequence[Grid],
    num_context_tokens: int,
    *,
    add_generation_prompt: bool = False,
) -> dict[str, list[int]]:
    """`tokenize_conversation` and `TokenizedConversation.expand` in one, where the grids are known beforehand."""
    conversation = tokenize_conversation(messages, tokenizer, add_generation_prompt=add_generation_prompt)
    return conversation.expand(grids, num_context_tokens)


def frames_that_fit(length: int, frames: int, frame_tokens: int, max_length: int) -> int:
    """The most frames that a video of `frames` frames, `frame_tokens` tokens each, may keep in a sample of `length`
    tokens in all; 0 where its text and images alone exceed `max_length`."""
    return max(0, min(frames, (max_length - (length - frames * frame_tokens)) // frame_tokens))


def limit_length(sample: dict[str, list[int]], max_length: int, overlong: str = "quarantine") -> dict[str, list[int]]:
    """The sample, at most `max_length` tokens long.

    With "truncate_text" the text at the end is cut. Raises OverlongError for a longer sample otherwise, and when the
    cut would touch a visual or context token or leave nothing supervised.
    """
    length = len(sample["input_ids"])
    if length <= max_length:
        return sample
    types = sample["mm_token_type_ids"]
    visual = sum(kind != TEXT_TYPE for kind in types)
    counts = f"{length} tokens, {visual} of them visual, exceed max_length {max_length}"
    if overlong != "truncate_text":
        raise OverlongError(counts, "raise max_length, use fewer images or frames, or set overlong to truncate_text")
    if any(kind != TEXT_TYPE for kind in types[max_length:]):
        raise OverlongError(f"{counts}; visual tokens lie beyond it", "raise max_length, or use fewer images or frames")
    if all(label == IGNORED_LABEL for label in sample["labels"][:max_length]):
        raise OverlongError(f"{counts}; no supervised token would be left", "raise max_length, or shorten the question")
    return {key: values[:max_length] for key, values in sample.items()}


def tokenize_segments(segments: Sequence[Segment], tokenizer: Any, placeholders: PlaceholderIds) -> list[list[int]]:
    """The ids of each segment; an image or video is its one placeholder."""
    visual = {"image": placeholders.image, "video": placeholders.video}
    control = _CONTROL_IDS.setdefault(tokenizer, {})
    pieces = []
    for text, kind, _ in segments:
        if kind in visual:
            piece = [visual[kind]]
        elif kind == "control":
            if text not in control:
                control[text] = tokenizer.encode(text, add_special_tokens=False)
            piece = control[text]
        else:
            piece = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []
            if not set(placeholders).isdisjoint(piece):
                raise ValueError(
                    f"{type(tokenizer).__name__} turns text into placeholder tokens; use a tokenizer that honours "
                    "split_special_tokens and that registers the placeholder tokens as special"
                )
        pieces.append(piece)
    return pieces
