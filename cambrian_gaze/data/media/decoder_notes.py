"""Counts the video files that PyAV decoded because decord would give other frames, or none."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

_OPENED: set[int] = set()
_INSTEAD: set[int] = set()
"""Hashes of the names of files, of this process."""


def note_decoder(name: str, instead: str | None) -> None:
    """A file was opened; `instead` says why by PyAV, where decord was tried first. Said at 1, 10, 100, … such files."""
    key = hash(name)
    _OPENED.add(key)
    if instead is None or key in _INSTEAD:
        return
    _INSTEAD.add(key)
    count = len(_INSTEAD)
    if count == 10 ** (len(str(count)) - 1):
        logger.warning(
            "PyAV decodes %d of %d video files so far, of which decord would give other frames or none; last %r: %s",
            count,
            len(_OPENED),
            name,
            instead,
        )


def decoder_counts() -> tuple[int, int]:
    """(files opened, those of them that PyAV decoded in decord's place) by this process."""
    return len(_OPENED), len(_INSTEAD)
