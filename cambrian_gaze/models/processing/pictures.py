"""Pictures and videos in the forms in which people hand them over, opened: files, bytes, data URLs, arrays, tensors.

Nothing is fetched: an address on the network is refused with the reason.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.data.media.image_files import EMBEDDED, MediaError, load_image, to_rgb
from cambrian_gaze.data.media.video import load_frames

Picture = Image.Image | str | Path | bytes | np.ndarray | torch.Tensor | Mapping[str, Any]
"""A PIL image; the path or file:// URL of a picture file; a data URL; the bytes of a picture file; an array or tensor
[H, W], [H, W, C] or [C, H, W] with C = 1, 3 or 4, of integers 0 … 255 or floats 0 … 1; {"path": …}, {"bytes": …},
{"url": …} or {"base64": …}."""

FORMS = (
    "give a PIL image, a path, a data URL, the bytes of a picture file, "
    "or an array or tensor of 0 … 255 (floats: 0 … 1)"
)
_PICTURE_FILE = re.compile(r"\.(png|jpe?g|jfif|webp|bmp|gif|tiff?|p[bgpn]m|jp2|j2k)$", re.IGNORECASE)
_NETWORK = re.compile(r"^(https?|ftp|s3|gs|hf)://", re.IGNORECASE)
_BYTES = bytes | bytearray | memoryview
EVERY_FRAME = FrameSampling(video_fps=1e9, video_max_frames=2**31 - 1)
"""Of a video file or folder, no frame is left out."""


def open_picture(picture: Picture) -> Image.Image:
    """A picture in any of the forms of `Picture`, as RGB.

    Raises: ValueError that says what is wrong with it and which forms are taken.
    """
    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    if isinstance(picture, _BYTES):
        return _load(bytes(picture), None)
    if isinstance(picture, np.ndarray | torch.Tensor):
        return to_rgb(_from_values(picture))
    if isinstance(picture, Mapping):
        for key in ("bytes", "base64", "path", "url", "image"):
            if picture.get(key) is not None:
                return _from_base64(picture[key]) if key == "base64" else open_picture(picture[key])
        raise ValueError(f"a picture is given as {short(dict(picture))}, which holds none; {FORMS}")
    if isinstance(picture, str) and picture[:5].lower() == "data:":
        return _from_data_url(picture)
    if isinstance(picture, str | Path):
        real = _local_file(picture, "picture")
        return _load(os.path.basename(real), os.path.dirname(real))
    raise ValueError(f"a picture is given as {short(picture)} ({type(picture).__name__}); {FORMS}")


def open_video(video: Any, sampling: FrameSampling | None = None) -> list[Image.Image]:
    """The frames of a video as RGB.

    Args:
        video: frames (a list of pictures, or an array or tensor [T, H, W, C] or [T, C, H, W]), all of which are taken;
            the path of a video file or of a folder of frames, of which `sampling` takes some.
        sampling: None: nothing was said.

    Raises: ValueError that says what is wrong with it, and where frames are given of which `sampling` wants some.
    """
    if isinstance(video, Mapping):
        video = next((video[key] for key in ("path", "url", "video") if video.get(key) is not None), None)
    if isinstance(video, str | Path) and not is_picture(video):
        if str(video)[:5].lower() == "data:":
            raise ValueError("a video comes as a data URL; give the path of its file, or a list of frames")
        real = _local_file(video, "video")
        return load_frames(os.path.basename(real), os.path.dirname(real), sampling)
    if isinstance(video, _BYTES):
        raise ValueError("a video comes as bytes; give the path of its file, or a list of frames")
    frames = list(video) if isinstance(video, list | tuple) or getattr(video, "ndim", 0) == 4 else [video]
    if not frames or video is None:
        raise ValueError("a video without frames was given")
    chooses = sampling is not None and sampling != EVERY_FRAME
    if chooses and not (sampling.video_force_sample and len(frames) <= sampling.video_max_frames):
        raise ValueError(
            f"num_frames and fps choose frames of a video file or folder, and {len(frames)} frames were given as they "
            "are: choose among them beforehand, such as frames[::2], and leave the option out"
        )
    return [open_picture(frame) for frame in frames]


def is_picture(value: Any) -> bool:
    """Whether a value is one picture, rather than a video or a list; the suffix decides what a path is."""
    if isinstance(value, str | Path):
        text = str(value)
        return text[:11].lower() == "data:image/" or bool(_PICTURE_FILE.search(text.split("?")[0]))
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.ndim < 4
    if isinstance(value, Mapping):
        inner = next((value[key] for key in ("path", "url", "image") if value.get(key) is not None), None)
        return inner is None or is_picture(inner)
    return isinstance(value, Image.Image | _BYTES)


def short(value: Any) -> str:
    """What a value looks like, in at most about 80 characters."""
    text = str(value) if isinstance(value, str | Path) else reprlib.repr(value)
    text = text if len(text) <= 80 else f"{text[:60]}…{text[-15:]}"
    return repr(text) if isinstance(value, str | Path) else text


def _load(source: str | bytes, folder: str | None) -> Image.Image:
    """`load_image`, its errors without the remedies for a record of a data file."""
    try:
        return load_image(source, folder)
    except MediaError as error:
        raise type(error)(error.reason.replace(EMBEDDED, "the picture"), FORMS) from error


def _local_file(path: str | Path, kind: str) -> str:
    """The real path of a file or folder that exists."""
    text = str(path)
    if _NETWORK.match(text):
        raise ValueError(
            f"{short(text)} is an address on the network, and nothing is fetched from there; download the {kind} and "
            "give its path" + (f", or {FORMS.removeprefix('give ')}" if kind == "picture" else "")
        )
    if text[:7].lower() == "file://":
        from urllib.parse import unquote, urlsplit

        text = unquote(urlsplit(text).path)
    if "\0" in text or len(text) > 4096 or not os.path.exists(text):
        raise ValueError(f"{short(text)}: there is no such file" + (f"; {FORMS}" if kind == "picture" else ""))
    return os.path.realpath(text)


def _from_data_url(url: str) -> Image.Image:
    head, comma, data = url.partition(",")
    if not comma or not head.lower().startswith("data:image/") or not head.lower().endswith(";base64"):
        raise ValueError(f"a picture's data URL must begin with data:image/…;base64, and this one is {short(url)}")
    return _from_base64(data)


def _from_base64(data: str | bytes) -> Image.Image:
    """Base64 with or without line breaks and padding, in its own alphabet or that of URLs."""
    try:
        plain = "".join((data.decode("ascii") if isinstance(data, bytes) else data).split())
        plain = plain.rstrip("=").replace("-", "+").replace("_", "/")
        content = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError, AttributeError) as error:
        raise ValueError(f"a picture's base64 is broken: {error}") from error
    return _load(content, None)


def _from_values(values: np.ndarray | torch.Tensor) -> Image.Image:
    """A picture of an array's numbers."""
    first_channels = isinstance(values, torch.Tensor)
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    shape = f"a picture is given as an array of the shape {list(values.shape)}"
    if values.ndim == 3:
        first, last = values.shape[0] in (1, 3, 4), values.shape[2] in (1, 3, 4)
        if not first and not last:
            raise ValueError(f"{shape}; it must be [H, W], [H, W, C] or [C, H, W] with C = 1, 3 or 4")
        if first and (first_channels or not last):
            values = values.transpose(1, 2, 0)
        values = values[..., 0] if values.shape[2] == 1 else values
    if values.ndim != 2 and values.ndim != 3 or not values.size:
        raise ValueError(f"{shape}; it must be [H, W], [H, W, C] or [C, H, W] with C = 1, 3 or 4")
    if values.dtype.kind not in "uif":
        raise ValueError(f"{shape} and of type {values.dtype}; {FORMS}")
    low, high = float(values.min()), float(values.max())
    most = 1.0 if values.dtype.kind == "f" else 255
    if not (0 <= low and high <= most):
        raise ValueError(
            f"{shape} and type {values.dtype} with values from {low:g} to {high:g}; integers must be 0 … 255 and "
            "floats 0 … 1: give the picture before it is normalised"
        )
    if values.dtype.kind == "f":
        values = np.rint(values * 255.0)
    return Image.fromarray(np.ascontiguousarray(values.astype(np.uint8)))


def nested(images: Any) -> list[Any]:
    """Images as they were given, flat or one list per row, as a list: a single one becomes a list of it."""
    if images is None:
        return []
    if isinstance(images, str | Path) or is_picture(images) or hasattr(images, "read"):
        return [images]  # an open file is no picture, which `open_picture` says; read by lines, it would be many
    if not isinstance(images, Iterable):
        raise ValueError(f"images are given as {short(images)}; {FORMS}, or a list of such")
    return list(images)


def nested_videos(videos: Any) -> list[Any]:
    """Videos as they were given, flat or one list per row, as a list: a single one becomes a list of it."""
    if videos is None:
        return []
    if isinstance(videos, str | Path | Mapping | _BYTES) or isinstance(videos, np.ndarray | torch.Tensor):
        return list(videos) if getattr(videos, "ndim", 0) == 5 else [videos]
    given = list(videos)
    if given and all(is_picture(entry) for entry in given):
        return [_OneVideo(given)]
    if any(_holds_videos(entry) for entry in given):
        return given
    return [_OneVideo(entry) if isinstance(entry, list | tuple) else entry for entry in given]


class _OneVideo:
    """A list of frames among flat videos, told from a row of videos."""

    def __init__(self, frames: Sequence[Any]) -> None:
        self.frames = list(frames)


def _holds_videos(entry: Any) -> bool:
    return isinstance(entry, list | tuple) and any(not is_picture(inner) for inner in entry)


def share(given: list[Any], counts: list[int], kind: str) -> list[list[Any]]:
    """Images or videos per row, of which the text has `counts`.

    Raises: ValueError where they disagree, by row where they are given by row.
    """
    by_row = any(entry is None or isinstance(entry, list | tuple) for entry in given)
    if by_row:
        if not all(entry is None or isinstance(entry, list | tuple) for entry in given):
            raise ValueError(f"some {kind}s are given in lists, one per row, and some are not; do one or the other")
        if len(given) != len(counts):
            raise ValueError(f"{kind}s are given for {len(given)} rows, and there are {len(counts)} rows of text")
        rows = [list(entry or ()) for entry in given]
        for number, (row, count) in enumerate(zip(rows, counts, strict=True)):
            if len(row) != count:
                raise ValueError(
                    f"text {number} has {count} {kind} placeholders, and {len(row)} {kind}s were given for it"
                )
        return rows
    left, rows = list(given), []
    for number, count in enumerate(counts):
        if count > len(left):
            raise ValueError(
                f"text {number} has {count} {kind} placeholders, and of the {len(given)} {kind}s that were given "
                f"{len(left)} are left for it"
            )
        rows.append([entry.frames if isinstance(entry, _OneVideo) else entry for entry in left[:count]])
        del left[:count]
    if left:
        raise ValueError(f"{len(left)} {kind}s were given that no <{kind}> in the text stands for")
    return rows


def flat(given: list[Any]) -> list[Any]:
    """What `nested` or `nested_videos` gave, row after row."""
    rows = [entry if isinstance(entry, list | tuple) else [entry] for entry in given if entry is not None]
    return [entry.frames if isinstance(entry, _OneVideo) else entry for row in rows for entry in row]
