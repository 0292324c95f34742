"""Samples that could not be used: marked in the batch, and logged once each in a JSONL file."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cambrian_gaze.data.records.records import Record

logger = logging.getLogger(__name__)

_MAX_REASON = 1000
_SHORT_REASON = 300


class TooManyQuarantined(ValueError):
    """More samples than allowed could not be used."""


@dataclass(frozen=True)
class Quarantined:
    """Stands in a batch for a sample that could not be used; the collator drops and counts it."""

    file: str
    row: int
    id: str
    reason: str
    """What was wrong, and the remedy."""
    source: str = ""
    """Name of the mixture's source."""
    kind: str = ""
    """One of `errors.KINDS` where it is known."""
    declared: bool = False
    """Whether its source declares that such samples are expected: these do not count towards the limit of a run, as
    long as they are no more than declared."""


@dataclass(frozen=True)
class ExpectedMissing:
    """How many samples of an epoch miss their media, as the recipe declares it."""

    count: float
    """Samples of an epoch; not whole where a source is read in part."""
    rows: int
    """All samples of an epoch."""
    shuffled: bool = True

    def beyond(self, missing: int, seen: int) -> int:
        """How many of `missing` samples among the first `seen` are more than declared.

        In a shuffled order the declared ones come evenly, give or take four standard deviations, so that a folder that
        is wrong altogether shows early; in any order an epoch has no more than all.
        """
        share = min(1.0, self.count / max(1, self.rows))
        allowed = math.ceil(-(-seen // max(1, self.rows)) * self.count)
        if self.shuffled:
            allowed = min(allowed, math.ceil(seen * share + 4 * math.sqrt(seen * share * (1 - share))))
        return max(0, missing - allowed)


NOTHING_MISSING = ExpectedMissing(0.0, 1)


@dataclass(frozen=True)
class Dropped(Quarantined):
    """A sample that the policy for over-long ones leaves out: counted, but no fault of the data and not logged."""


class QuarantineLog:
    """Appends {file, row, id, reason, source, kind, declared, time, rank, step} once per record, from any number of
    processes.

    A line is one `write` to a file opened with O_APPEND, so lines of several workers and ranks never mix. Before
    writing, the lines that others appended are read, so that another epoch or worker does not log a record again.
    """

    def __init__(self, path: str | os.PathLike[str], rank: int | None = None, logs_fills: bool = True):
        """`logs_fills`: False on a rank that reads what another one reads too, so that a fill is logged once."""
        self.path = os.fspath(path)
        self.rank = int(os.environ.get("RANK", "0")) if rank is None else rank
        self.logs_fills = logs_fills
        self.step: int | None = None
        """Optimizer step that this process reads for; None outside training."""
        self._seen: set[tuple[str, int]] = set()
        self._read = 0

    def add(self, item: Quarantined) -> bool:
        """Logs the item unless its record is in the file already; says whether it was new."""
        key = (item.file, item.row)
        if key not in self._seen:
            self._catch_up()
        if key in self._seen:
            return False
        self._seen.add(key)
        self._append(self.path, {**vars(item), "reason": item.reason[:_MAX_REASON]})
        logger.warning("quarantined %s (log: %s)", item.reason, self.path)
        return True

    def add_fill(self, lost: Quarantined, filler: Record) -> None:
        """Logs in `fills` that the sample of `filler` took the place of `lost`."""
        if not self.logs_fills:
            return
        by = {"file": filler.file, "row": filler.row, "id": filler.id}
        self._append(self.fills, {"file": lost.file, "row": lost.row, "id": lost.id, "filled_by": by})

    @property
    def fills(self) -> str:
        """JSONL beside the log: whose place was filled by which record, and in which step."""
        return os.path.splitext(self.path)[0] + ".fills.jsonl"

    def _append(self, path: str, entry: dict[str, Any]) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        entry = {**entry, "time": now, "rank": self.rank, "step": self.step}
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        append_lines(path, json.dumps(entry) + "\n")

    def _catch_up(self) -> None:
        for entry, end in _entries(self.path, self._read):
            self._seen.add((entry["file"], entry["row"]))
            self._read = end


def append_lines(path: str | os.PathLike[str], lines: str, sync: bool = False) -> None:
    """Append whole lines in one write, so that those of several processes never mix; with `sync` they are on the disk
    when this returns. Part of a line that a killed process left is ended first, so that it does not swallow these.

    Raises OSError where they were not written, or in part.
    """
    data = lines.encode("ascii")
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(fd, fcntl.LOCK_EX)  # a line that another process is writing is not taken for one broken off
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            data = b"\n" + data
        if os.write(fd, data) != len(data):
            raise OSError(f"{path}: a line was written in part; is the disk full?")
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def read_quarantine(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The entries of a log, one per record; empty when there is no such file."""
    unique = {(entry["file"], entry["row"]): entry for entry, _ in _entries(path, 0)}
    return list(unique.values())


def first_rows(path: str | os.PathLike[str], shown: int = 3) -> str:
    """The first records of a log, in words: "train.jsonl, row 3: why"; empty where there is none."""
    entries = [entry for entry, _ in _entries(path, 0)]
    told = []
    for entry in entries[:shown]:
        where, reason = f"{entry['file']}, row {entry['row']}", str(entry["reason"])
        text = reason if reason.startswith(where) else f"{where}: {reason}"
        told.append(text if len(text) <= _SHORT_REASON else f"{text[:_SHORT_REASON]}…")
    more = len(entries) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def read_list(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The entries of a list that a user gives, one per record; none where the file is empty, as for clean data.

    Raises ValueError where there is no such file, and for a line that is no entry: its row would be used after all.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); correct the path, or leave it out") from error
    unique = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            unique[str(entry["file"]), int(entry["row"])] = entry
        except (ValueError, TypeError, KeyError) as error:
            remedy = "correct or delete the line; `cambrian-gaze data check --quarantine` writes such lists"
            raise ValueError(f'{path}, line {number} is no {{"file": …, "row": …}}; {remedy}') from error
    return list(unique.values())


def _entries(path: str | os.PathLike[str], start: int) -> Iterator[tuple[dict[str, Any], int]]:
    """(entry, position after it) from byte `start` on; a last line without its newline is left for later."""
    try:
        with open(path, "rb") as stream:
            stream.seek(start)
            lines = stream.readlines()
    except FileNotFoundError:
        return
    for line in lines:
        if not line.endswith(b"\n"):
            return
        start += len(line)
        try:
            entry = json.loads(line)
        except ValueError:  # a writer was killed within its line
            continue
        yield entry, start
