"""Reads one image from below a folder, and says what is wrong with it when that fails."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from PIL import ExifTags, Image, ImageOps

from cambrian_gaze.data.errors import option
from cambrian_gaze.data.records import RecordError

MAX_PIXELS = 89_478_485
"""Largest picture that is decoded, in pixels: Pillow's own limit, 256 MiB as RGB."""

EMBEDDED = "a picture in the table"
"""Stands in messages where a picture has no file of its own."""

# Named, because Pillow would also hand PostScript files to Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")


class MediaError(RecordError):
    """A picture or video that cannot be used."""


class MissingMedia(MediaError):
    """A picture or video that is not where the record says."""


def resolve_path(path: str, root: str | os.PathLike[str] | None, flag: str = "--image_folder") -> str:
    """The real path of `path` below `root`. Raises MediaError for anything missing or outside, symlinks followed.

    `flag` is the option that sets `root`, for the remedy; empty where the path stands for itself.
    """
    name = option(flag.lstrip("-")) if flag else ""
    if root is None:
        raise MediaError(f"{path!r}: no folder was given to look in", f"pass {name}")
    base = _real_folder(os.path.abspath(root))
    try:
        real = os.path.realpath(os.path.join(base, path))
        inside = os.path.commonpath((real, base)) == base
    except ValueError as error:  # a NUL byte, or a lone surrogate
        raise MediaError(f"{path!r} is no file name", "correct the path, or delete the row") from error
    if not inside:
        remedy = "keep all files below it (links are followed)"
        remedy += f", or pass a {name} that holds them" if name else ""
        raise MediaError(f"{path!r} lies outside the folder {base}", remedy)
    try:
        os.stat(real)
    except OSError as error:
        remedy = f"check the path and {name}, or delete the row" if name else "check the path"
        if "\\" in path and os.sep == "/":
            remedy = "write / between folders: a backslash is a part of the name here"
        kind = MissingMedia if isinstance(error, FileNotFoundError | NotADirectoryError) else MediaError
        raise kind(f"{path!r} cannot be found in {base}: {error.strerror}", remedy) from error
    return real


def regular_file(path: str, root: str | os.PathLike[str] | None, flag: str = "--image_folder") -> str:
    """The real path of a file that holds something. Raises MediaError for folders, pipes and empty files too."""
    real = resolve_path(path, root, flag)
    status = os.stat(real)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise MediaError(f"{path!r} is {kind}", "name a file, or delete the row")
    if status.st_size == 0:
        raise MediaError(f"{path!r} is empty (0 bytes)", "download it again, or delete the row")
    return real


def load_image(
    path: str | bytes, root: str | os.PathLike[str] | None, max_pixels: int = MAX_PIXELS, flag: str = "--image_folder"
) -> Image.Image:
    """The picture as `to_rgb` gives it, decoded, its file closed again; of an animation, the first frame.

    `path` may be the file's content, as tables hold it. Raises MediaError that names the file and the remedy.
    """
    with _open(path, root, max_pixels, flag) as image:
        image.load()
        return to_rgb(image, path if isinstance(path, str) else EMBEDDED)


def image_size(
    path: str | bytes, root: str | os.PathLike[str] | None, max_pixels: int = MAX_PIXELS, flag: str = "--image_folder"
) -> tuple[int, int]:
    """(width, height) of the picture that `load_image` gives, from the file's header. Raises MediaError."""
    with _open(path, root, max_pixels, flag) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return image.size[::-1] if turned else image.size


@contextmanager
def _open(
    path: str | bytes, root: str | os.PathLike[str] | None, max_pixels: int, flag: str
) -> Iterator[Image.Image]:
    """The picture, its header read. Whatever goes wrong inside becomes a MediaError."""
    content, path = (path, EMBEDDED) if isinstance(path, bytes) else (None, path)
    real = regular_file(path, root, flag) if content is None else ""
    try:
        source = open(real, "rb") if content is None else io.BytesIO(content)
        with source as stream, Image.open(stream, formats=_FORMATS) as image:
            _check_size(image, path, max_pixels)
            yield image
    except (MediaError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        remedy = f"use one of {', '.join(_FORMATS)}, or delete the row"
        raise MediaError(f"{path!r} is not an image that can be read", remedy) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        remedy = "shrink the picture, or delete the row"
        raise MediaError(f"{path!r} is too large to decode ({error})", remedy) from error
    except Exception as error:  # decoders raise almost any type on damaged data
        if isinstance(error, OSError) and error.errno is not None:
            remedy = "check its permissions and the disk"
            raise MediaError(f"{path!r} cannot be read: {error.strerror}", remedy) from error
        remedy = "download it again, or delete the row"
        raise MediaError(f"{path!r} is truncated or damaged ({error})", remedy) from error


def to_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """The picture as 8-bit RGB: upright (EXIF), transparent parts on white, 16 bits reduced to 8.

    `name` is for errors. Raises MediaError for floating-point and 32-bit values, whose range is unknown.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise MediaError(f"{name!r} stores floating-point values", "convert it to 8 bits per channel")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise MediaError(f"{name!r} stores 32-bit values ({low} to {high})", "convert it to 8 bits per channel")
        image = Image.fromarray((values.astype(np.uint32) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=64)
def _real_folder(root: str) -> str:
    return os.path.realpath(root)


def _check_size(image: Image.Image, path: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        reason = f"{path!r} has {width}x{height} = {width * height} pixels, more than the {max_pixels} allowed"
        raise MediaError(reason, "shrink the picture (or raise max_pixels), or delete the row")
