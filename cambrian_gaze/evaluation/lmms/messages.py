"""Chat messages as lmms-eval's tasks write them, turned into those that our processor takes.

A task writes {"type": "image" | "video", "url": …}. A part that our own tasks wrote also has "as_is": true: the text
after it was made for this model. Other tasks give pictures first and the question after them, to which the line break
is added that stands between the two in training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from cambrian_gaze.data.media.image_files import load_image, to_rgb
from cambrian_gaze.data.media.video import FrameSampling, load_frames
from cambrian_gaze.evaluation.fingerprint import file_fingerprint, video_fingerprint

Messages = Sequence[Mapping[str, Any]]
_CLIP = {"start_time": "start_time", "end_time": "end_time", "video_start": "start_time", "video_end": "end_time"}


def outline(messages: Messages) -> list[dict[str, Any]]:
    """The messages without their pictures and videos.

    Raises: ValueError for a kind of part that the model cannot take, such as audio.
    """
    return [{"role": message["role"], "content": [_bare(part) for part in _parts(message)]} for message in messages]


def loaded(messages: Messages, sampling: FrameSampling) -> list[dict[str, Any]]:
    """The messages with RGB pictures and the sampled RGB frames of videos. Raises MediaError naming the file."""
    return [
        {"role": message["role"], "content": [_bare(part) | _medium(part, sampling) for part in _parts(message)]}
        for message in messages
    ]


def media_fingerprints(messages: Messages) -> list[str]:
    """Hex digests of pictures and videos, in order, each with the clip that is cut out of it."""
    return [_digest(part) for message in messages for part in _parts(message) if part["type"] != "text"]


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    parts = [dict(part) for part in content]
    for before, part in zip(parts, parts[1:], strict=False):
        if part["type"] == "text" and before["type"] != "text" and not before.get("as_is"):
            part["text"] = part["text"] if part["text"][:1] == "\n" else "\n" + part["text"]
    return parts


def _bare(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] in ("image", "video"):
        return {"type": part["type"]}
    raise ValueError(f"the task shows a part of type {part['type']!r}; the model takes text, images and videos")


def _medium(part: Mapping[str, Any], sampling: FrameSampling) -> dict[str, Any]:
    if part["type"] == "text":
        return {}
    source, clip = _source(part)
    if part["type"] == "image":
        if isinstance(source, Image.Image):
            return {"image": to_rgb(source)}
        path = Path(source).resolve()
        return {"image": load_image(path.name, path.parent, flag="")}
    path = Path(source).resolve()
    return {"video": load_frames(path.name, path.parent, sampling, clip=clip)}


def _source(part: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A picture or a path, and the clip of it that is meant."""
    given = part["url"]
    described = {**part, **given} if isinstance(given, Mapping) else dict(part)
    source = (given.get("url") or given.get("path") or given.get("video")) if isinstance(given, Mapping) else given
    if not isinstance(source, (str, Path)) and not (part["type"] == "image" and isinstance(source, Image.Image)):
        raise ValueError(f"the task shows a {part['type']} as {type(source).__name__}; a path is needed")
    clip = {ours: described[theirs] for theirs, ours in _CLIP.items() if described.get(theirs) is not None}
    return source, clip | ({"fps": part["fps"]} if part.get("fps") is not None else {})


def _digest(part: Mapping[str, Any]) -> str:
    source, clip = _source(part)
    if isinstance(source, Image.Image):
        return hashlib.sha256(f"{source.mode} {source.size} ".encode() + source.tobytes()).hexdigest()
    digest = (video_fingerprint if part["type"] == "video" else file_fingerprint)(source)
    return f"{digest} {sorted(clip.items())}" if clip else digest
