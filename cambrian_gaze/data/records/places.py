"""Files that are made from a data file and kept: where they lie, and what they belong to.

They lie beside the data as `.NAME.SUFFIX`, or in the cache folder where the data's folder cannot be written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cambrian_gaze.files import CACHE_VARIABLE, cache_folder, wait_for_lock

_SAMPLES, _SAMPLE_BYTES = 16, 1 << 14


@dataclass(frozen=True)
class FileIdentity:
    """What tells one content of a file from another without reading all of it."""

    size: int
    mtime_ns: int
    digest: str
    """Of the size, the head, the tail and pieces between them at even distances."""

    @staticmethod
    def of(path: str | os.PathLike[str]) -> FileIdentity:
        """Raises OSError."""
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            digest = hashlib.blake2b(str(status.st_size).encode(), digest_size=16)
            last = max(0, status.st_size - _SAMPLE_BYTES)
            for place in np.linspace(0, last, _SAMPLES).astype(np.int64).tolist():
                digest.update(os.pread(stream.fileno(), _SAMPLE_BYTES, place))
        return FileIdentity(status.st_size, status.st_mtime_ns, digest.hexdigest())


def places_beside(path: str | os.PathLike[str], suffix: str) -> tuple[str, str]:
    """Where a file that belongs to `path` may lie: beside it, and in the cache folder."""
    folder, name = os.path.split(os.path.abspath(path))
    key = hashlib.blake2b(os.fsencode(os.path.realpath(path)), digest_size=8).hexdigest()
    return os.path.join(folder, f".{name}.{suffix}"), os.path.join(cache_folder(), "data", f"{key}-{name}.{suffix}")


def writable_place(places: tuple[str, str], path: str | os.PathLike[str]) -> str:
    """The first of `places_beside` whose folder takes files. Raises ValueError that names the remedy."""
    beside, cached = places
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(beside)):
            return beside
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT):
            raise
    try:
        os.makedirs(os.path.dirname(cached), exist_ok=True)
        with tempfile.TemporaryFile(dir=os.path.dirname(cached)):
            return cached
    except OSError as error:
        folders = f"neither {os.path.dirname(beside)} nor {os.path.dirname(cached)} can be written"
        remedy = f"set {CACHE_VARIABLE} to a folder that can"
        raise ValueError(f"no place for what belongs to {os.fspath(path)}: {folders}; {remedy}") from error


@contextlib.contextmanager
def locked(place: str) -> Iterator[None]:
    """One process at a time, where the file system has locks. Where it has none the work is done several times over,
    and `files.replacing` keeps it right."""
    lock = f"{place}.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        wait_for_lock(descriptor, lock)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(lock)
        os.close(descriptor)
