"""The cache folder, the one atomic writer, by which a reader sees the old file or the new one and never half of it, and
a lock that waits."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "CAMBRIAN_GAZE_CACHE"
"""Environment variable that names the cache folder; by default `~/.cache/cambrian-gaze`."""


def cache_folder() -> str:
    """Where files go that are made once and kept, and belong beside no other."""
    return os.environ.get(CACHE_VARIABLE) or os.path.join(os.path.expanduser("~"), ".cache", "cambrian-gaze")


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields an empty temporary file beside `path`; it is synced and takes its place when the block ends without an
    error, and is deleted when it does not. Folders above `path` are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes the file private to its owner
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike, content: bytes) -> Path:
    """Writes bytes atomically and returns their path."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Writes UTF-8 text atomically, line ends as they are, and returns its path."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike, content: object) -> Path:
    """Writes JSON atomically, indented, and returns its path."""
    return write_text(path, json.dumps(content, indent=2))


def write_png(path: str | os.PathLike, image: Image.Image) -> Path:
    """Writes a PNG atomically and returns its path."""
    with replacing(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)
    return Path(path)


@contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Yields an empty folder beside `path` that takes its place when the block ends without an error.

    Raises: ValueError where `path` is there and not an empty folder.
    """
    path = Path(path)
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes the folder private to its owner
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def refuse_existing(path: Path | str) -> None:
    """Raises: ValueError where `path` is there and not an empty folder: nothing is overwritten."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists and is not an empty folder; choose another, or delete it")


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def wait_for_lock(descriptor: int, name: str | os.PathLike) -> None:
    """Hold the kernel's lock on an open file or folder once others have let it go; it ends with the descriptor. Where
    the file system has no locks it says so, and every process goes on by itself."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        logger.info("%s cannot be locked (%s); every process goes on by itself", name, error.strerror)
