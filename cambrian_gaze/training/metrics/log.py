"""`train_log.jsonl`: what each logging step measured, in full precision, append-only.

A run that is resumed appends: a line `{"event": "start", "attempt": a, "from_step": s}` supersedes all lines of earlier
attempts beyond step s. `read_log` gives the history as if nothing had been interrupted.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

LOG_NAME = "train_log.jsonl"


class TrainLog:
    """Appends one line per logging step; one writer at a time."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.attempt = 0
        self._file = None

    def start(self, from_step: int, **facts: Any) -> None:
        """Open the file for a further attempt that begins after optimizer step `from_step`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        earlier = _lines(self.path)
        self.attempt = 1 + max((line["attempt"] for line in earlier), default=0)
        torn = self.path.exists() and self.path.stat().st_size > 0 and not self.path.read_bytes().endswith(b"\n")
        self._file = self.path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")
        self._write({"event": "start", "attempt": self.attempt, "from_step": from_step, "time": time.time(), **facts})

    def write(self, event: str, values: dict[str, Any]) -> None:
        """Append `values`, which hold `step`; `event` is `log`, `eval` or `end`."""
        self._write({"event": event, "attempt": self.attempt, **values})

    @property
    def is_open(self) -> bool:
        """Whether an attempt is being written."""
        return self._file is not None

    def close(self) -> None:
        """Close the file; `start` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is None:
            raise ValueError(f"{self.path} is not open: call start() first")
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def read_log(path: Path | str, event: str = "log") -> list[dict[str, Any]]:
    """The valid lines of one kind by rising step: those that no later attempt has superseded. A folder means its
    `train_log.jsonl`."""
    path = Path(path)
    if path.is_dir():
        path = path / LOG_NAME
    valid: list[dict[str, Any]] = []
    for line in _lines(path):
        if line["event"] == "start":
            valid = [v for v in valid if v["step"] <= line["from_step"]]
        else:
            valid.append(line)
    return [line for line in valid if line["event"] == event]


def _lines(path: Path) -> list[dict[str, Any]]:
    """Every whole line; one that a killed run left half-written is skipped."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines
