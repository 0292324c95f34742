"""Requests to stop: SIGUSR1, SIGTERM and Ctrl-C (SIGINT) end a run after its next step, with a checkpoint.

A signal may reach one rank or several, at any moment; all ranks stop after the same step. The exit statuses are those
of `agent.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

import torch
import torch.distributed as dist

from cambrian_gaze.training.launch.agent import EXIT_INTERRUPTED, EXIT_REQUEUE, EXIT_TERMINATED

STATUS = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED, signal.SIGUSR1: EXIT_REQUEUE}
"""Signal → exit status, in rising precedence."""

NOTICE = (
    "\nThe run stops after this step with a checkpoint; the same command continues it. Ctrl-C again ends it at once: "
    "what was trained since the last checkpoint is lost then.\n"
)

WORKER_GRACE = 60
"""Seconds that a loader's worker lives on after SIGTERM: time for the rank's step."""


class StopRequest:
    """What this process was asked, and since `agree` what any rank was."""

    def __init__(self) -> None:
        self.status = 0
        """Exit status that was asked for; 0 while nothing was."""
        self.granted = 0
        """Exit status of a run that has stopped for it, with its checkpoint; the same on all ranks."""
        self.can_save = False
        """Whether training has begun: before it, Ctrl-C ends the run."""
        self._process = os.getpid()

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take the signals while the block runs. A second SIGTERM or Ctrl-C ends the process at once."""
        previous = {number: signal.signal(number, self._note) for number in STATUS}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # A child's copy.
            if number != signal.SIGUSR1:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        ranked = list(STATUS.values())
        self.status = max(self.status, STATUS[number], key=lambda s: ranked.index(s) if s else -1)
        if number != signal.SIGUSR1:
            signal.signal(number, signal.SIG_DFL)
        if number == signal.SIGINT and not self.can_save:
            raise KeyboardInterrupt
        if number == signal.SIGINT and int(os.environ.get("LOCAL_RANK", 0)) == 0:
            os.write(2, NOTICE.encode())  # A print may be interrupted by itself.

    def agree(self, device: torch.device) -> int:
        """The status that any rank was asked for, SIGUSR1's before SIGTERM's, the same on all. A collective."""
        if dist.is_initialized():
            ranked = [0, *STATUS.values()]
            place = torch.tensor(ranked.index(self.status), device=device)
            dist.all_reduce(place, dist.ReduceOp.MAX)
            self.status = ranked[int(place)]
        return self.status


def outlive_requests(worker: int = 0) -> None:
    """For a loader's worker: a request to stop is the rank's to answer, and needs the worker for the step that runs.

    Schedulers signal all processes of a job. After SIGTERM a worker lives `WORKER_GRACE` seconds, or until the next.
    """

    def later(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        signal.alarm(WORKER_GRACE)

    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, later)
