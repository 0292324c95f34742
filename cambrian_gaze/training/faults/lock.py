"""One run at a time in an `output_dir`: the first rank holds a lock on a file there for as long as it lives.

It is the kernel's lock (flock), so it ends with the process however that ends, and no file of a dead run is in the way.
On a file system that all machines share it holds between machines too, where that file system has such locks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

NAME = ".run.lock"
PATIENCE = 6.0
"""Seconds to wait for a run that is just ending, such as one whose launcher was killed."""
_POLL = 0.2
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock:
    """The lock of one folder; `take` may be called on one rank alone."""

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder) / NAME
        self._file: int | None = None

    def take(self, patience: float = PATIENCE) -> None:
        """Hold the lock from now on.

        Raises: ValueError where another process holds it after `patience` seconds, naming that process.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    logger.warning("%s has no file locks: nothing keeps a second run out of it", self.path.parent)
                    break
                if time.monotonic() > deadline:
                    holder = _holder(file)
                    os.close(file)
                    raise ValueError(
                        f"another run writes into {self.path.parent}: {holder}. Wait for it or stop it, or choose "
                        "another output_dir"
                    ) from error
            time.sleep(_POLL)
        facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(facts).encode(), 0)
        self._file = file
        # A loader's worker that outlives its rank for some seconds must not hold the lock.
        os.register_at_fork(after_in_child=self._close)

    def release(self) -> None:
        """Let the lock go; does nothing where it is not held."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None

    @contextlib.contextmanager
    def releasing(self) -> Iterator[RunLock]:
        """Let it go at the end of the block."""
        try:
            yield self
        finally:
            self.release()


def _holder(file: int) -> str:
    try:
        facts = json.loads(os.pread(file, 4096, 0))
        return f"process {int(facts['pid'])} on {facts['host']}, since {facts['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not said who it is"
