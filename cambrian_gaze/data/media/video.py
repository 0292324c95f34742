"""Videos as frames: from a list of frames, a folder of frames, or a video file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from PIL import Image

from cambrian_gaze.data.media.clips import folder_fps, other_rate
from cambrian_gaze.data.media.decoders import count_in_file, frames_of_file
from cambrian_gaze.data.media.frame_sampling import FrameSampling, Timeline, clip_number, select_frames
from cambrian_gaze.data.media.image_files import MAX_PIXELS, MediaError, load_image, regular_file, resolve_path
from cambrian_gaze.data.media.isolated import count_in_child, decode_in_child

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})


def load_frames(
    video: str | list[str],
    root: str | os.PathLike[str] | None,
    sampling: FrameSampling | None = None,
    clip: Mapping[str, Any] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> list[Image.Image]:
    """The sampled frames of a video as RGB pictures, in order; only these are decoded.

    `video`: paths of frames, a folder of frames (sorted by name, numbers by value) or a video file.
    `clip` may hold what a record says: `fps` (of lists and folders; else `clips.folder_fps`) and `clips.CLIP_KEYS`.
    Raises MediaError that names the file and the remedy.
    """
    sampling, clip = sampling or FrameSampling(), clip or {}
    if (real := _video_file(video, root)) is not None:
        read = decode_in_child if sampling.video_timeout else frames_of_file
        return [Image.fromarray(frame) for frame in read(video, real, sampling, clip, max_pixels)]
    frames, indices = _select_pictures(video, root, sampling, clip)
    return [load_image(frames[i], root, max_pixels, flag="--video_folder") for i in indices]


def count_frames(
    video: str | list[str],
    root: str | os.PathLike[str] | None,
    sampling: FrameSampling | None = None,
    clip: Mapping[str, Any] | None = None,
) -> int:
    """How many frames `load_frames` gives, without decoding any. Arguments and errors are the same."""
    sampling, clip = sampling or FrameSampling(), clip or {}
    if (real := _video_file(video, root)) is not None:
        count = count_in_child if sampling.video_timeout else count_in_file
        return count(video, real, sampling, clip)
    return len(_select_pictures(video, root, sampling, clip)[1])


def video_files(video: str | list[str], root: str | os.PathLike[str] | None) -> list[str]:
    """The files that a video consists of: itself, or the pictures of a list or folder. Raises MediaError."""
    if _video_file(video, root) is not None:
        return [video]
    return list_frames(video, root) if isinstance(video, str) else video


def _video_file(video: str | list[str], root: str | os.PathLike[str] | None) -> str | None:
    """The real path of a video file; None for lists and folders of frames."""
    if not isinstance(video, str):
        return None
    if os.path.isdir(resolve_path(video, root, "--video_folder")):
        return None
    return regular_file(video, root, "--video_folder")


def _select_pictures(
    video: str | list[str], root: str | os.PathLike[str] | None, sampling: FrameSampling, clip: Mapping[str, Any]
) -> tuple[list[str], list[int]]:
    """The paths of all frames of a list or folder, and which of them to take."""
    frames = list_frames(video, root) if isinstance(video, str) else video
    if (rate := other_rate(clip)) is not None and clip.get("fps") is None:
        raise MediaError(f'{video}: the rate of its frames stands under "{rate}"', 'name the key "fps"')
    first = video if isinstance(video, str) else next(iter(video), "")
    source_fps = clip_number(clip, "fps", folder_fps(os.path.join(root or "", first)))
    if not source_fps > 0:
        raise MediaError(f"{video}: {source_fps:g} frames per second", 'correct "fps" of the record, or drop it')
    return frames, select_frames(Timeline.regular(len(frames), source_fps), clip, sampling, str(video))


def list_frames(folder: str, root: str | os.PathLike[str] | None) -> list[str]:
    """Paths of the pictures in a folder of frames, numbers sorted by value. Raises MediaError where there are none."""
    real = resolve_path(folder, root, "--video_folder")
    names = (name for name in os.listdir(real) if not name.startswith("."))
    paths = [name for name in names if os.path.splitext(name)[1].lower() in _SUFFIXES]
    if not paths:
        raise MediaError(f"{folder!r} is a folder without image files", "extract the frames, or delete the row")
    number = r"(\d+(?:\.\d+)?)" if _have_decimals(paths) else r"(\d+)"
    return [os.path.join(folder, name) for name in sorted(paths, key=lambda name: _natural_order(name, number))]


def _natural_order(name: str, number: str) -> list[tuple[int, Decimal, str]]:
    parts = re.split(number, os.path.splitext(name)[0])
    return [(0, Decimal(part), "") if i % 2 else (1, Decimal(0), part) for i, part in enumerate(parts)]


def _have_decimals(names: list[str]) -> bool:
    """Whether the last number of each name is one with decimals, as Python writes seconds (0.25, 0.5, 10.0), and not
    two numbers with a point between them (1.2, 1.10): their digits after the point differ in number, and none is a 0
    that says nothing."""
    found = [re.search(r"\d\.(\d+)\D*$", os.path.splitext(name)[0]) for name in names]
    decimals = {match[1] if match else "" for match in found}
    padded = any(len(digits) > 1 and digits.endswith("0") for digits in decimals)
    return len({len(digits) for digits in decimals}) > 1 and not padded
