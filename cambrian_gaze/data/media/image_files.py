"""Reads one image from below a folder, and says what is wrong with it when that fails."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import ExifTags, Image, features

from cambrian_gaze.data.errors import RecordError, option
from cambrian_gaze.data.media.bare import bare_pictures
from cambrian_gaze.data.media.depth import eight_bits, faint_colours
from cambrian_gaze.data.media.unfinished import LFS, is_lfs_pointer, jpeg_breaks_off

_Taken = TypeVar("_Taken")

MAX_PIXELS = 89_478_485
"""Largest picture that is decoded, in pixels: Pillow's own limit, 256 MiB as RGB."""

EMBEDDED = "a picture in the table"
"""Stands in messages where a picture has no file of its own."""

# Named, because Pillow would also hand PostScript files to Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")

_MAX_BARE = 2**28
"""Bytes of the largest file that is read once more without its metadata."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""


class MediaError(RecordError):
    """A picture or video that cannot be used."""

    kind = "undecodable"


class MissingMedia(MediaError):
    """A picture or video that is not where the record says."""

    kind = "missing"


class MachineError(OSError):
    """No picture or video can be read, or not this kind: what is wrong is the machine and not the sample, such as a
    missing package or a folder without permission. Nothing is set aside for it; the run stops."""

    def __init__(self, message: str):
        # A loader's worker hands its error on with the traceback as text; what is to be read is at its end.
        super().__init__(message.rpartition("MachineError: ")[2].strip())


_OF_THE_MACHINE = frozenset(
    getattr(errno, name)
    for name in "EMFILE ENFILE ENOMEM ENOSPC EDQUOT ESTALE ENOTCONN ENODEV ENXIO EHOSTDOWN EHOSTUNREACH ENETDOWN "
    "ENETUNREACH ETIMEDOUT EREMOTEIO ESHUTDOWN".split()
    if hasattr(errno, name)
)
"""Errors of the system that no other file would be spared: no descriptors, no memory, no disk, no file server."""


def check_machine(error: OSError, name: str) -> None:
    """Raises MachineError where an error of the system is not the file's that is called `name`."""
    if error.errno in _OF_THE_MACHINE:
        reason = f"{name!r} cannot be read: {error.strerror}. This is no fault of the file"
        raise MachineError(f"{reason}; check memory, disk, mounts and `ulimit -n`") from error


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
        check_machine(error, path)
        _check_root(base, name)
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
    with _named(path):
        if is_lfs_pointer(real, status.st_size):
            raise MediaError(f"{path!r} is {LFS[0]}", LFS[1])
    return real


def load_image(
    path: str | bytes, root: str | os.PathLike[str] | None, max_pixels: int = MAX_PIXELS, flag: str = "--image_folder"
) -> Image.Image:
    """The picture as `to_rgb` gives it, decoded, its file closed again; of an animation, the first frame.

    `path` may be the file's content, as tables hold it. Raises MediaError that names the file and the remedy.
    """
    name = path if isinstance(path, str) else EMBEDDED
    return _read(path, root, max_pixels, flag, lambda image: to_rgb(image, name))


def image_size(
    path: str | bytes, root: str | os.PathLike[str] | None, max_pixels: int = MAX_PIXELS, flag: str = "--image_folder"
) -> tuple[int, int]:
    """(width, height) of the picture that `load_image` gives, from the file's header. Raises MediaError."""
    return _read(path, root, max_pixels, flag, _upright_size)


def _read(
    path: str | bytes,
    root: str | os.PathLike[str] | None,
    max_pixels: int,
    flag: str,
    take: Callable[[Image.Image], _Taken],
) -> _Taken:
    """What `take` makes of the picture, its header read. Whatever goes wrong becomes a MediaError.

    A decoder may stumble over metadata; then these are left out.
    """
    content, path = (path, EMBEDDED) if isinstance(path, bytes) else (None, path)
    real = regular_file(path, root, flag) if content is None else ""
    with _named(path), open(real, "rb") if content is None else io.BytesIO(content) as stream:
        _check_decoder(stream, path)
        try:
            return _opened(stream, path, max_pixels, take)
        except (MediaError, MachineError, MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise
        except Exception:
            stream.seek(0)
            content = stream.read(_MAX_BARE + 1)
            for bare in bare_pictures(content) if len(content) <= _MAX_BARE else ():
                with suppress(Exception):
                    return _opened(io.BytesIO(bare), path, max_pixels, take)
            raise


def _opened(stream: BinaryIO, path: str, max_pixels: int, take: Callable[[Image.Image], _Taken]) -> _Taken:
    with Image.open(stream, formats=_FORMATS) as image:
        _check_size(image, path, max_pixels)
        return take(image)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes a MediaError that names the file."""
    try:
        yield
    except (MediaError, MachineError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        remedy = f"use one of {', '.join(_FORMATS)}, or delete the row"
        raise MediaError(f"{path!r} is not an image that can be read", remedy) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        remedy = "shrink the picture, or delete the row"
        raise MediaError(f"{path!r} is too large to decode ({error})", remedy) from error
    except Exception as error:  # decoders raise almost any type on damaged data
        if isinstance(error, OSError) and error.errno is not None:
            check_machine(error, path)
            remedy = "check its permissions and the disk"
            raise MediaError(f"{path!r} cannot be read: {error.strerror}", remedy) from error
        if (decoder := re.match(r"(?:de|en)coder (\w+) not available", str(error))) is not None:
            raise MachineError(
                f"{path!r} cannot be read: this Pillow was built without {decoder[1]}; install one that has it with: "
                "pip install --force-reinstall pillow"
            ) from error
        remedy = "download it again, or delete the row"
        raise MediaError(f"{path!r} is truncated or damaged ({error})", remedy) from error


def to_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """The picture as 8-bit RGB: upright (EXIF), transparent parts on white, 10 to 16 bits reduced to 8.

    EXIF that cannot be read turns nothing; 16 bits: see `depth`. `name` is for errors. Raises MediaError for
    floating-point and 32-bit values, whose range is unknown.
    """
    decoded = faint_colours(image) or image
    image.load()
    turn = _TURNS.get(_orientation(image))  # none for TIFF, which Pillow turns when it decodes it
    image = decoded if turn is None else decoded.transpose(turn)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode == "F":
        raise MediaError(f"{name!r} stores floating-point values", "convert it to 8 bits per channel")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise MediaError(f"{name!r} stores 32-bit values ({low} to {high})", "convert it to 8 bits per channel")
        image = Image.fromarray(eight_bits(values))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of a picture that is not decoded yet, once `to_rgb` has turned it."""
    width, height = image.size
    if image.format == "TIFF":  # some versions of Pillow turn the size of these, others do not
        width, height = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
    return (height, width) if _orientation(image) >= 5 else (width, height)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none, or none that can be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in _TURNS else 1
    except Exception:  # Pillow raises almost any type on damaged EXIF, of which the picture needs nothing
        return 1


_OPTIONAL = {
    "webp": (b"RIFF", 8, b"WEBP"),
    "jpg_2000": (b"\0\0\0\x0cjP  \r\n", 0, b""),
    "jpg": (b"\xff\xd8\xff", 0, b""),
}
"""What Pillow may have been built without: how its files begin, and what stands where after that."""


def _check_decoder(stream: BinaryIO, path: str) -> None:
    """Raises MachineError where the format is one that this Pillow does not have, MediaError for a part of a file."""
    head = stream.read(12)
    if head.startswith(b"\xff\xd8\xff") and jpeg_breaks_off(stream):
        raise MediaError(f"{path!r} is truncated: it ends in zeros", "download it again, or delete the row")
    stream.seek(0)
    for feature, (start, place, mark) in _OPTIONAL.items():
        if head.startswith(start) and head[place:].startswith(mark) and not features.check(feature):
            raise MachineError(
                f"{path!r} cannot be read: this Pillow was built without {feature}; install one that has it with: "
                "pip install --force-reinstall pillow"
            )


def _check_root(base: str, name: str) -> None:
    """Raises MachineError where the folder itself cannot be read, for whatever lies in it."""
    try:
        os.stat(base)
        reason = "" if os.access(base, os.X_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise MachineError(
            f"the folder {base} cannot be read: {reason}; check {f'{name}, ' if name else ''}the folder's permissions, "
            "and that its disk is mounted"
        )


@lru_cache(maxsize=64)
def _real_folder(root: str) -> str:
    return os.path.realpath(root)


def _check_size(image: Image.Image, path: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        reason = f"{path!r} has {width}x{height} = {width * height} pixels, more than the {max_pixels} allowed"
        raise MediaError(reason, "shrink the picture (or raise max_pixels), or delete the row")
