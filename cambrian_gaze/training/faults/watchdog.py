"""A watchdog: a process that makes no progress writes the stacks of its threads and ends.

A rank that waits for ever keeps all others waiting. Each rank watches itself, so that one of the files says who was
waited for.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cambrian_gaze.training.launch.agent import EXIT_HUNG

SLOW = 4.0
"""What may take longer (start and first step, evaluation, saving) has this many times the limit of a step."""

_LOOKS = 20
"""How often the watchdog looks within one limit."""


class Watchdog:
    """Ends the process with `EXIT_HUNG` once the time since the last `beat` exceeds its limit.

    Stacks go to `FOLDER/rank-N.txt`. Where a thread hangs without releasing Python's lock, faulthandler's own timer
    writes them instead and the status is 1.
    """

    def __init__(self, folder: Path | str, limit: float, rank: int = 0) -> None:
        """`limit`: seconds that a micro-batch may take; 0 watches nothing."""
        self.path, self.limit = Path(folder) / f"rank-{rank}.txt", limit
        self._deadline = (time.monotonic(), "start")
        self._slow = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def beat(self, what: str, slow: bool = False) -> None:
        """There is progress; `what` comes next. Within `slowly` everything is slow."""
        seconds = self.limit * (SLOW if slow or self._slow else 1.0)
        self._deadline = (time.monotonic() + seconds, f"{what} has taken more than {seconds:g} s")

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watchdog]:
        """Watch while the block runs."""
        if not self.limit:
            yield self
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.beat("the start", slow=True)
        self._stopped.clear()
        # Opened now: a full disk or too many open files must not keep the process alive.
        with self.path.open("a", encoding="utf-8") as file:
            self._thread = threading.Thread(target=self._watch, args=(file,), name="watchdog", daemon=True)
            self._thread.start()
            try:
                yield self
            finally:
                self._stopped.set()
                self._thread.join()
                faulthandler.cancel_dump_traceback_later()
        if not self.path.stat().st_size:
            self.path.unlink()
        with contextlib.suppress(OSError):  # Other files are there.
            self.path.parent.rmdir()

    @contextlib.contextmanager
    def slowly(self, what: str) -> Iterator[None]:
        """The block is one thing that may take `SLOW` times as long as a step."""
        self._slow = True
        self.beat(what)
        try:
            yield
        finally:
            self._slow = False
            self.beat("what follows " + what)

    def _watch(self, file: Any) -> None:
        while not self._stopped.wait(self.limit / _LOOKS):
            deadline, what = self._deadline
            if time.monotonic() > deadline:
                self._end(file, what)
            # Runs out only where this thread does not get to run.
            faulthandler.dump_traceback_later(2 * SLOW * self.limit, exit=True, file=file)

    def _end(self, file: Any, what: str) -> None:
        try:
            file.write(f"{datetime.now(timezone.utc).isoformat(timespec='seconds')} pid {os.getpid()}: {what}\n")
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
            os.fsync(file.fileno())
            print(f"{what}; the stacks are in {self.path} (--hang_timeout)", file=sys.stderr, flush=True)
        finally:
            os._exit(EXIT_HUNG)
