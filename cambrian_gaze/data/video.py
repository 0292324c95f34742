"""Videos as frames: which to take, and where to read them (list of frames, folder of frames, video file)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from cambrian_gaze.data.media import MAX_PIXELS, MediaError, load_image, resolve_path
from cambrian_gaze.extras import require

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
_INSTEAD_OF_DECORD = "install it, or store the video as a folder of frames"


@dataclass(frozen=True)
class FrameSampling:
    """How many frames to take of a video."""

    video_fps: float = 1.0
    """Frames taken per second of video."""
    video_max_frames: int = 64
    """Cap; a longer video is sampled uniformly with this many frames."""
    video_force_sample: bool = False
    """Always sample uniformly with `video_max_frames` frames, or all frames where there are fewer."""

    def __post_init__(self) -> None:
        if not self.video_fps > 0 or self.video_max_frames < 1:
            raise ValueError(
                f"video_fps={self.video_fps} and video_max_frames={self.video_max_frames} must be positive, "
                "for example 1.0 and 64"
            )


def sample_frames(start: int, end: int, source_fps: float, sampling: FrameSampling) -> list[int]:
    """Indices of the frames to take from [start, end), ascending and distinct, first frame included."""
    # A source slower than video_fps gives each of its frames once.
    step = max(1.0, source_fps / sampling.video_fps)
    indices = [start + int(step * i) for i in range(int(np.ceil((end - start) / step)))]
    if not sampling.video_force_sample and len(indices) <= sampling.video_max_frames:
        return indices
    count = min(sampling.video_max_frames, end - start)
    return np.linspace(start, end - 1, count).round().astype(int).tolist()


def load_frames(
    video: str | list[str],
    root: str | os.PathLike[str] | None,
    sampling: FrameSampling | None = None,
    clip: Mapping[str, Any] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> list[Image.Image]:
    """The sampled frames of a video as RGB pictures, in order; only these are decoded.

    `video`: paths of frames, a folder of frames (sorted by name, numbers by value) or a video file (needs decord).
    `clip` may hold what a record says: `fps` (of lists and folders; 1 when absent), `start_time` and `end_time`
    (seconds), `start_frame` and `end_frame` (end excluded). Raises MediaError that names the file and the remedy.
    """
    sampling, clip = sampling or FrameSampling(), clip or {}
    if isinstance(video, str):
        real = resolve_path(video, root, "--video_folder")
        if not os.path.isdir(real):
            return _decode(video, real, sampling, clip, max_pixels)
        names = (name for name in os.listdir(real) if not name.startswith("."))
        paths = [name for name in names if os.path.splitext(name)[1].lower() in _SUFFIXES]
        frames = [os.path.join(video, name) for name in sorted(paths, key=_natural_order)]
        if not frames:
            raise MediaError(f"{video!r} is a folder without image files", "extract the frames, or delete the row")
    else:
        frames = video
    source_fps = _number(clip, "fps", 1.0)
    start, end = _clip_range(len(frames), source_fps, clip, str(video))
    indices = sample_frames(start, end, source_fps, sampling)
    return [load_image(frames[i], root, max_pixels, flag="--video_folder") for i in indices]


def _clip_range(num_frames: int, source_fps: float, clip: Mapping[str, Any], name: str) -> tuple[int, int]:
    if not source_fps > 0:
        raise MediaError(f"{name}: {source_fps:g} frames per second", 'correct "fps" of the record, or drop it')
    first = _number(clip, "start_frame", _number(clip, "start_time", 0.0) * source_fps)
    last = _number(clip, "end_frame", _number(clip, "end_time", num_frames / source_fps) * source_fps)
    start, end = int(first), min(num_frames, int(np.ceil(last - 1e-6)))
    if not 0 <= start < end:
        reason = f"{name}: the clip [{first:g}, {last:g}) selects none of the {num_frames} frames at {source_fps:g} fps"
        raise MediaError(reason, "correct fps, start_time/end_time or start_frame/end_frame of the record")
    return start, end


def _number(clip: Mapping[str, Any], key: str, default: float) -> float:
    value = clip.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise MediaError(f'"{key}" is {value!r}, not a finite number', f'write "{key}" as a plain number, or drop it')
    return float(value)


def _decode(
    video: str, real: str, sampling: FrameSampling, clip: Mapping[str, Any], max_pixels: int
) -> list[Image.Image]:
    try:
        decord = require("decord", extra="video")
    except ImportError as error:
        raise MediaError(f"{video!r} is a video file: {error}", _INSTEAD_OF_DECORD) from error
    try:
        reader = decord.VideoReader(real, ctx=decord.cpu(0), num_threads=1)
        num_frames, fps = len(reader), float(reader.get_avg_fps())
        start, end = _clip_range(num_frames, fps, clip, video)
        height, width = reader[start].shape[:2]
        if height * width > max_pixels:
            raise MediaError(f"{video!r} has frames of {width}x{height}, more than {max_pixels} pixels", "shrink it")
        batch = reader.get_batch(sample_frames(start, end, fps, sampling)).asnumpy()
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # decord raises its own types, which cannot be imported without it
        remedy = "re-encode or download it again, or delete the row"
        raise MediaError(f"{video!r} cannot be decoded ({error})", remedy) from error
    return [Image.fromarray(frame) for frame in batch]


def _natural_order(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]
