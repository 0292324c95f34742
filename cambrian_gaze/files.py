"""The cache folder, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CACHE_VARIABLE = "CAMBRIAN_GAZE_CACHE"
"""Environment variable that names the cache folder; by default `~/.cache/cambrian-gaze`."""


def cache_folder() -> str:
    """Where files go that are made once and kept, and belong beside no other."""
    return os.environ.get(CACHE_VARIABLE) or os.path.join(os.path.expanduser("~"), ".cache", "cambrian-gaze")


@contextlib.contextmanager
def written_whole(place: str) -> Iterator[BinaryIO]:
    """A stream to a file beside `place` that is moved there at the end: a reader sees all of it or nothing."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(place), prefix=f"{os.path.basename(place)}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, place)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
