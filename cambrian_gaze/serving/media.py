"""Pictures and videos of a request. They come as `data:` URLs and from nowhere else: a server that fetches addresses or
files for strangers is open to abuse."""

from __future__ import annotations

import base64
import binascii
import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from PIL import Image

from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.data.media.image_files import EMBEDDED, MAX_PIXELS, MediaError, image_size, load_image
from cambrian_gaze.data.media.video import load_frames
from cambrian_gaze.serving.refusal import Refused

MAX_FRAME_PIXELS = MAX_PIXELS // 8
"""Largest frame of a video, in pixels: a 4K frame is smaller."""

_HEAD = re.compile(r"data:(?P<kind>[^/;,\s]*)/(?P<form>[^;,\s]*)(?:;[^;,]*)*;\s*base64", re.IGNORECASE)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def content_of(url: Any, kind: str, param: str | None = None) -> tuple[bytes, str]:
    """The bytes in a `data:KIND/FORM;base64,…` URL, and FORM in lower case. Line breaks and spaces in the base64, the
    URL-safe alphabet and missing padding are taken.

    Raises: Refused for any other address, and where the base64 is broken or empty.
    """
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    match = _HEAD.fullmatch(head.strip())
    if not comma or match is None or match["kind"].lower() != kind:
        raise Refused(
            f"{'an image' if kind == 'image' else 'a video'} must come as data:{kind}/…;base64,…: "
            "this server fetches no addresses and no files",
            param,
        )
    raw = data.encode("ascii", "replace")
    raw = b"".join((unquote_to_bytes(raw) if b"%" in raw else raw).split()).rstrip(b"=").translate(_URL_SAFE)
    try:
        content = base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except binascii.Error as error:
        raise Refused(f"the base64 of {kind} data is broken: {error}", param) from error
    if not content:
        raise Refused(f"the {kind} data is empty", param)
    return content, match["form"].lower()


def picture_of(url: Any, param: str | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in a `data:image/…;base64,…` URL, as RGB. Raises Refused."""
    content, _ = content_of(url, "image", param)
    try:
        width, height = image_size(content, None)
        if width * height > max_pixels:
            raise Refused(
                f"the pictures of a request may have {MAX_PIXELS:,} pixels together; with this one of {width}x{height} "
                "they have more",
                param,
            )
        return load_image(content, None)
    except MediaError as error:
        raise Refused(error.reason.replace(repr(EMBEDDED), "the picture"), param) from error


def frames_of(url: Any, sampling: FrameSampling, param: str | None = None) -> list[Image.Image]:
    """The sampled frames of the video in a `data:video/…;base64,…` URL, as RGB.

    Raises: Refused; ImportError where the decoder is not installed here.
    """
    content, form = content_of(url, "video", param)
    name = f"video.{re.sub(r'[^a-z0-9]', '', form)[:8] or 'mp4'}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        try:
            return load_frames(name, folder, sampling, max_pixels=MAX_FRAME_PIXELS)
        except MediaError as error:
            raise Refused(error.reason.replace(repr(name), "the video"), param) from error
