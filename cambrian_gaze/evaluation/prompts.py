"""From a record to what the model is asked: chat messages with their pictures, and fingerprints of both."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from cambrian_gaze.data.clips import CLIP_KEYS
from cambrian_gaze.data.conversation import IMAGE_POSITIONS, messages_from_record, visuals
from cambrian_gaze.data.frame_sampling import FrameSampling
from cambrian_gaze.data.media import load_image
from cambrian_gaze.data.records import ROLES, Record
from cambrian_gaze.data.video import load_frames
from cambrian_gaze.evaluation.fingerprint import file_fingerprint
from cambrian_gaze.gaze.layout import IMAGE, VIDEO


def prompt_messages(record: Record, image_position: str = IMAGE_POSITIONS[0]) -> list[dict[str, Any]]:
    """The record's turns as chat messages, less the answer at its end where it has one; pictures stand as in training.

    Raises: RecordError with file and row where turns, roles or placeholders are out of order.
    """
    turns = record.conversations
    if ROLES[turns[-1]["from"]] != "assistant":
        record = dataclasses.replace(record, conversations=[*turns, {"from": "gpt", "value": "(to be given)"}])
    return messages_from_record(record, image_position)[:-1]


def with_media(
    messages: list[dict[str, Any]], record: Record, folder: str | Path, sampling: FrameSampling
) -> list[dict[str, Any]]:
    """The messages with each image (RGB) and video (list of RGB frames) of the record in its place."""
    images = iter(record.images)
    filled = []
    for message in messages:
        parts = []
        for part in message["content"]:
            if part["type"] == "image":
                part = {**part, "image": load_image(next(images), folder)}
            elif part["type"] == "video":
                part = {**part, "video": load_frames(record.video, folder, sampling, record.extra)}
            parts.append(part)
        filled.append({**message, "content": parts})
    return filled


def modalities(messages: list[dict[str, Any]]) -> list[int]:
    """IMAGE or VIDEO for each picture and video, in order of appearance."""
    return [IMAGE if kind == "image" else VIDEO for kind in visuals(messages)]


def media_identity(record: Record, folder: str | Path, sampling: FrameSampling) -> dict[str, Any]:
    """What tells the record's media from others, for `entry_key`: fingerprints of its files, frames of its video."""
    videos = [record.video] if isinstance(record.video, str) else record.video or []
    facts: dict[str, Any] = {"media": [file_fingerprint(Path(folder) / path) for path in [*record.images, *videos]]}
    if record.video is not None:
        clip = {key: record.extra[key] for key in ("fps", *CLIP_KEYS) if key in record.extra}
        facts["frames"] = {**sampling.identity(), "clip": clip}
    return facts
