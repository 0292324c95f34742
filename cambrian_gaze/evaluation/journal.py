"""Append-only journal of answers: one JSON object per line, flushed per line.

A process that is killed leaves at most one unfinished last line. Opening the journal drops it, so that its answer is
given again; every complete line is kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from cambrian_gaze.files import write_bytes


def entry_key(**identity: Any) -> str:
    """Hex digest of everything that an answer depends on (JSON types); the order of the names does not matter."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def read_entries(path: str | Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The entries of a journal file by key, and the number of bytes of its complete lines.

    Raises: ValueError naming file and line where a complete line is not a JSON object with a `key`.
    """
    data = Path(path).read_bytes()
    complete = data.rfind(b"\n") + 1
    entries: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(data[:complete].splitlines(), start=1):
        try:
            entry = json.loads(line)
            entries[entry["key"]] = entry
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: not a journal entry ({error!r}); remove the line to answer it again"
            ) from error
    return entries, complete


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode("utf-8") + b"\n"


class Journal:
    """Answers by key, backed by a JSONL file. Where a key occurs more than once its last line counts.

    Args:
        path: the file that this process appends to.
        others: journals of other processes, whose answers count too; they are read once and never written.

    Raises: ValueError naming file and line where a complete line is not a JSON object with a `key`.
    """

    def __init__(self, path: str | Path, others: Iterable[str | Path] = ()) -> None:
        self.path = Path(path)
        self.entries: dict[str, dict[str, Any]] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for other in others:
            self.entries.update(read_entries(other)[0])
        if self.path.exists():
            own, complete = read_entries(self.path)
            self.entries.update(own)
            if complete < self.path.stat().st_size:
                with open(self.path, "r+b") as file:
                    file.truncate(complete)
        self._file = open(self.path, "ab")  # noqa: SIM115  closed by `close`

    def append(self, entry: dict[str, Any]) -> None:
        """Store an entry (with its `key`) so that it survives the end of this process."""
        self._file.write(_line(entry))
        self._file.flush()
        self.entries[entry["key"]] = entry

    def arrange(self, keys: Iterable[str]) -> None:
        """Rewrite the file in one move, one line for each key: first the entries of other keys in the order in which
        they were answered, then those of `keys` in this order. Keys without an entry are left out."""
        wanted = [key for key in dict.fromkeys(keys) if key in self.entries]
        chosen = set(wanted)
        order = [key for key in self.entries if key not in chosen] + wanted
        lines = b"".join(_line(self.entries[key]) for key in order)
        if self.path.read_bytes() == lines:
            return
        self._file.close()
        write_bytes(self.path, lines)
        self._file = open(self.path, "ab")  # noqa: SIM115  closed by `close`
        self.entries = {key: self.entries[key] for key in order}

    def close(self) -> None:
        """Close the file; the entries stay readable."""
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.entries[key]

    def __len__(self) -> int:
        return len(self.entries)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class KeptAnswers(dict[str, dict[str, Any]]):
    """A journal without a file: what is answered again in any case need not survive the process."""

    def append(self, entry: dict[str, Any]) -> None:
        """Keep an entry under its `key`."""
        self[entry["key"]] = entry


@contextmanager
def alone(path: str | Path) -> Iterator[None]:
    """Holds a lock that ends with this process. Raises ValueError where another process holds it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"another process writes {path}; wait for it or stop it, or give another --output"
            ) from error
        yield
