"""From a record to what the model is asked: chat messages with their pictures, and fingerprints of both."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.data.conversation import IMAGE_POSITIONS, messages_from_record, visuals
from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.media.clips import CLIP_KEYS
from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.data.media.image_files import load_image, resolve_path
from cambrian_gaze.data.media.video import load_frames
from cambrian_gaze.data.records.forms import ROLES
from cambrian_gaze.data.records.records import Record
from cambrian_gaze.evaluation.fingerprint import file_fingerprint
from cambrian_gaze.gaze.token_types import VISUAL_TYPES


def prompt_messages(record: Record, image_position: str = IMAGE_POSITIONS[0]) -> list[dict[str, Any]]:
    """The record's turns as chat messages, less the answer at its end where it has one; pictures stand as in training.

    Raises: RecordError with file and row where turns, roles or placeholders are out of order.
    """
    turns = record.conversations
    if ROLES[turns[-1]["from"]] != "assistant":
        record = dataclasses.replace(record, conversations=[*turns, {"from": "gpt", "value": "(to be given)"}])
    return messages_from_record(record, image_position)[:-1]


def question_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The last question as text, for readers, `<image>` and `<video>` where they stand."""
    return "".join(part.get("text", f"<{part['type']}>") for part in messages[-1]["content"])


def beside_pictures(question: str) -> str:
    """A `question_text` for readers who see the pictures elsewhere: without their places, if all are at its ends."""
    bare = re.sub(r"^(\s*<(image|video)>)+|(<(image|video)>\s*)+$", "", question).strip()
    return question.strip() if re.search(r"<(image|video)>", bare) else bare


def pictures_of(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The images and videos of chat messages, as they stand in them, in order."""
    parts = [part for message in messages for part in message["content"] if part["type"] != "text"]
    return [part[part["type"]] for part in parts]


def reference(record: Record) -> str | None:
    """The answer that the record gives to its last question; None where it gives none."""
    last = record.conversations[-1]
    return last["value"] if ROLES[last["from"]] == "assistant" else None


def with_media(
    messages: list[dict[str, Any]],
    record: Record,
    folder: str | Path,
    sampling: FrameSampling,
    video_folder: str | Path | None = None,
) -> list[dict[str, Any]]:
    """The messages with each image (RGB) and video (list of RGB frames) of the record in its place.

    `folder` and `video_folder` (as `folder` where None) are what the record's paths start from.
    Raises: MediaError with file and row.
    """
    try:
        return _filled(messages, record, folder, sampling, folder if video_folder is None else video_folder)
    except RecordError as error:
        raise error.at(record.file, record.row) from error


def _filled(
    messages: list[dict[str, Any]], record: Record, folder: str | Path, sampling: FrameSampling, videos: str | Path
) -> list[dict[str, Any]]:
    images = iter(record.images)
    filled = []
    for message in messages:
        parts = []
        for part in message["content"]:
            if part["type"] == "image":
                part = {**part, "image": load_image(next(images), folder)}
            elif part["type"] == "video":
                part = {**part, "video": load_frames(record.video, videos, sampling, record.extra)}
            parts.append(part)
        filled.append({**message, "content": parts})
    return filled


def modalities(messages: list[dict[str, Any]]) -> list[int]:
    """IMAGE or VIDEO for each picture and video, in order of appearance."""
    return [VISUAL_TYPES[kind] for kind in visuals(messages)]


def media_identity(
    record: Record, folder: str | Path, sampling: FrameSampling, video_folder: str | Path | None = None
) -> dict[str, Any]:
    """What tells the record's media from others, for `entry_key`: fingerprints of its files, frames of its video.

    Raises: MediaError with file and row where one is missing or lies outside its folder.
    """
    videos = [record.video] if isinstance(record.video, str) else record.video or []
    video_folder = folder if video_folder is None else video_folder
    try:
        places = [_real(path, folder, "--image_folder") for path in record.images]
        places += [_real(path, video_folder, "--video_folder") for path in videos]
    except RecordError as error:
        raise error.at(record.file, record.row) from error
    facts: dict[str, Any] = {"media": [_fingerprint(place) for place in places]}
    if record.video is not None:
        clip = {key: record.extra[key] for key in ("fps", *CLIP_KEYS) if key in record.extra}
        facts["frames"] = {**sampling.identity(), "clip": clip}
    return facts


def _real(path: str | bytes, folder: str | Path, flag: str) -> str | bytes:
    return path if isinstance(path, bytes) else resolve_path(path, folder, flag)


def _fingerprint(place: str | bytes) -> str:
    return hashlib.sha256(place).hexdigest() if isinstance(place, bytes) else file_fingerprint(place)
