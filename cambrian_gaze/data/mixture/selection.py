"""Which rows of a mixture a run reads, decided before it starts: those that no list excludes and, where their tokens
were counted, that fit."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cambrian_gaze.data.mixture.lengths import BAD_RECORD
from cambrian_gaze.data.mixture.mixture import Mixture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """Rows, and why others are not among them."""

    rows: np.ndarray
    """int64 [n], ascending."""
    lengths: np.ndarray | None = None
    """int32 [rows of the mixture]: tokens of each row once the policy for over-long samples was applied."""
    units: np.ndarray | None = None
    """int32 [rows of the mixture]: images and frames of each row."""
    left_out: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Reason → rows: `excluded` by a list, `unreadable`, `overlong`."""
    shortened: int = 0
    """Over-long rows that are read with less text or fewer frames."""


def select(
    num_rows: int,
    excluded: np.ndarray | None = None,
    measures: np.ndarray | None = None,
    *,
    max_length: int | None = None,
    overlong: str = "quarantine",
    frame_tokens: int = 1,
) -> Selection:
    """Args:
    excluded: bool [num_rows].
    measures: int32 [num_rows, 3], see `lengths.measure_mixture`; without it nothing is known of lengths.
    overlong: one of `encode.OVERLONG`. frame_tokens: visual and context tokens of a frame.
    """
    keep = np.ones(num_rows, dtype=bool) if excluded is None else ~excluded
    left_out = {} if excluded is None else {"excluded": np.flatnonzero(excluded)}
    if measures is None or max_length is None:
        return Selection(np.flatnonzero(keep), left_out=left_out)
    lengths, units, frames = np.array(measures[:, 0]), np.array(measures[:, 1]), measures[:, 2]
    unreadable = keep & (lengths <= BAD_RECORD)
    too_long = keep & (lengths > max_length)
    shortened = 0
    if overlong == "fewer_frames":
        # As `encode.frames_that_fit`, for all rows at once.
        kept = np.clip((max_length - (lengths - frames * frame_tokens)) // frame_tokens, 0, frames)
        fits = too_long & (kept > 0)
        lengths[fits] -= ((frames - kept) * frame_tokens)[fits]
        units[fits] -= (frames - kept)[fits]
        shortened, too_long = int(fits.sum()), too_long & ~fits
    elif overlong == "truncate_text":
        # Whether the text can be cut is seen when the sample is read; its pack is full either way.
        lengths[too_long] = max_length
        shortened, too_long = int(too_long.sum()), np.zeros_like(too_long)
    left_out |= {"unreadable": np.flatnonzero(unreadable), "overlong": np.flatnonzero(too_long)}
    rows = np.flatnonzero(keep & ~unreadable & ~too_long)
    return Selection(rows, lengths, units, left_out, shortened)


def excluded_rows(mixture: Mixture, entries: Iterable[Mapping[str, Any]], name: str) -> np.ndarray:
    """The rows of the mixture that a quarantine list names by `file` and `row`, bool [rows].

    Entries without a row in the mixture are counted in a warning. Raises ValueError where no entry's file is in it.
    """
    by_file: dict[str, list[int]] = {}
    for entry in entries:
        by_file.setdefault(os.path.realpath(entry["file"]), []).append(int(entry["row"]))
    excluded = np.zeros(len(mixture), dtype=bool)
    sources, rows = mixture.locate_all(np.arange(len(mixture)))
    files = [os.path.realpath(source.path) for source in mixture.sources]
    total, unknown = sum(map(len, by_file.values())), 0
    if total and by_file.keys().isdisjoint(files):
        raise ValueError(
            f"none of the {total} entries of {name} names a file of the mixture ({next(iter(by_file))} is none of "
            f"{', '.join(sorted(set(files)))}); give the list that `cambrian-gaze data check` wrote for this data"
        )
    for file, named in by_file.items():
        wanted = np.unique(np.array(named, dtype=np.int64))
        met = np.zeros(len(wanted), dtype=bool)
        for number in (n for n, other in enumerate(files) if other == file):
            mine = sources == number
            numbers = mixture.records[number].row_numbers()[rows[mine]]
            excluded[mine] = np.isin(numbers, wanted)
            met |= np.isin(wanted, numbers)
        unknown += int((~met).sum())
    if unknown:
        logger.warning("%s: %d of its %d entries name rows that the mixture does not read", name, unknown, total)
    return excluded
