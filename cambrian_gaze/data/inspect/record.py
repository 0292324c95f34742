"""Everything that can be known of one record without training on it: what is wrong, its media, its tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from cambrian_gaze.data.conversation import IMAGE_POSITIONS, check_image_position, messages_from_record
from cambrian_gaze.data.encode import tokenize_conversation
from cambrian_gaze.data.errors import RecordError, option
from cambrian_gaze.data.media.clips import CLIP_KEYS
from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.data.media.image_files import (
    MAX_PIXELS,
    MediaError,
    image_size,
    load_image,
    regular_file,
)
from cambrian_gaze.data.media.video import count_frames, load_frames, video_files
from cambrian_gaze.data.records.records import Record

LEVELS = ("exists", "header", "decode")
"""How closely media are looked at: is there a file, what does its header say, can it be decoded."""


class Problem(NamedTuple):
    """Something wrong with a record."""

    kind: str
    """One of `errors.KINDS`."""
    reason: str
    remedy: str

    def __str__(self) -> str:
        return str(RecordError(self.reason, self.remedy))


@dataclass(frozen=True)
class Inspector:
    """What to look at, and how closely."""

    media: str = "header"
    """One of LEVELS."""
    sampling: FrameSampling = field(default_factory=FrameSampling)
    max_pixels: int = MAX_PIXELS
    processor: Any = None
    """Where given, tokens are counted with it (see `dataset.SampleProcessor`)."""
    max_length: int | None = None
    """Where given, with a processor, longer samples are over-long."""
    image_position: str = IMAGE_POSITIONS[0]
    """Where pictures stand in a turn, see `conversation`."""

    def __post_init__(self) -> None:
        if self.media not in LEVELS:
            raise ValueError(f"media={self.media!r} is unknown; use one of {', '.join(LEVELS)}")
        check_image_position(self.image_position)

    def row(self, records: Sequence[Record], index: int, folders: tuple[str | None, str | None]) -> Inspected:
        """Record `index`. `folders`: where its images and its videos are."""
        try:
            record = records[index]
        except RecordError as error:
            return Inspected(row=error.row or 0, problems=[_problem(error)])
        found = Inspected(record.id, record.row, images=len(record.images), videos=int(record.video is not None))
        found.fingerprint = _fingerprint(record)
        for path in record.images:
            if isinstance(path, bytes):  # it exists, and is too large to be kept in a cache
                level = "header" if self.media == "exists" else self.media
                size, problem = _image.__wrapped__(path, None, level, self.max_pixels)
            else:
                size, problem = _image(path, folders[0], self.media, self.max_pixels)
            found.sizes += [size] if size else []
            found.problems += [problem] if problem else []
        if record.video is not None:
            self._inspect_video(record, folders[1], found)
        try:
            messages = messages_from_record(record, self.image_position)
            if self.processor is not None and (record.video is None or found.frames):
                self._count_tokens(messages, found)
        except RecordError as error:
            found.problems.insert(0, _problem(error))
        return found

    def _inspect_video(self, record: Record, folder: str | None, found: Inspected) -> None:
        try:
            if self.media != "decode":
                for path in video_files(record.video, folder):
                    regular_file(path, folder, "--video_folder")
            if self.media == "decode":
                frames = load_frames(record.video, folder, self.sampling, record.extra, self.max_pixels)
                found.frames = len(frames)
            elif self.media == "header" or self.processor is not None:
                found.frames = count_frames(record.video, folder, self.sampling, record.extra)
        except MediaError as error:
            found.problems.append(_problem(error))

    def _count_tokens(self, messages: Sequence[Any], found: Inspected) -> None:
        conversation = tokenize_conversation(messages, self.processor.tokenizer)
        context = self.processor.num_context_tokens
        grids = [(1 if kind == "image" else found.frames, *self.processor.grid_hw) for kind in conversation.visuals]
        found.length = conversation.count_tokens(grids, context)
        found.visual = sum(frames * (height * width + context) for frames, height, width in grids)
        if self.max_length is not None and found.length > self.max_length:
            reason = f"{found.length} tokens, {found.visual} of them visual, exceed max_length {self.max_length}"
            remedy = f"raise {option('max_length')}, or choose a policy with {option('overlong')}"
            found.problems.append(Problem("overlong", reason, remedy))


@dataclass
class Inspected:
    """What was found out about one record."""

    id: str = ""
    row: int = 0
    images: int = 0
    videos: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """(width, height) of each image that could be read; empty with media "exists"."""
    frames: int | None = None
    """Frames taken of the video."""
    length: int | None = None
    """Tokens of the sample; None where they were not or cannot be counted."""
    visual: int = 0
    """Visual and context tokens among them."""
    fingerprint: int | None = None
    """64 bits that two rows with the same media, clip and text share, and the same id or none."""
    problems: list[Problem] = field(default_factory=list)


def _problem(error: RecordError) -> Problem:
    return Problem(error.kind, error.reason, error.remedy)


@lru_cache(maxsize=65_536)  # many rows share a picture
def _image(
    path: str | bytes, folder: str | None, media: str, max_pixels: int
) -> tuple[tuple[int, int] | None, Problem | None]:
    """(size, problem) of an image."""
    look: Callable[[], Any] = {
        "exists": lambda: regular_file(path, folder),
        "header": lambda: image_size(path, folder, max_pixels),
        "decode": lambda: load_image(path, folder, max_pixels).size,
    }[media]
    try:
        size = look()
    except MediaError as error:
        return None, _problem(error)
    return (None if media == "exists" else size), None


def _fingerprint(record: Record) -> int:
    images = [hashlib.blake2b(i).hexdigest() if isinstance(i, bytes) else i for i in record.images]
    clip = [record.extra.get(key) for key in CLIP_KEYS] if record.video is not None else []
    identity = record.id if record.has_own_id else None  # else it is the row's number
    text = json.dumps([identity, images, record.video, clip, record.conversations], default=str)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
