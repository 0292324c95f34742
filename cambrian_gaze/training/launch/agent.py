"""torchrun, and what it lacks: SIGUSR1 reaches the ranks, and a run that asks to be started again says so.

A scheduler that is about to take the machine away sends SIGUSR1. The ranks write a checkpoint and exit with
`EXIT_REQUEUE`; torchrun would turn any failure into 1, here that status becomes the agent's own. Arguments are those of
`torch.distributed.run`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType

EXIT_CONFIGURATION = 2
"""Exit status of a rank whose configuration or paths are wrong; it has said why."""

EXIT_STOPPED = 3
"""Exit status of a rank that stopped its run: too many samples or steps could not be used, or a checkpoint could not be
written. It has said why."""

EXIT_REQUEUE = 85
"""Exit status of a rank, and so of the agent and of `scripts/launch.sh`, that stopped on request with its checkpoint
written: the same command continues it. `scripts/slurm/train.sbatch` puts the job back into the queue."""

EXIT_TERMINATED = 143
"""The same after SIGTERM: whoever sent it wants the run to end."""

EXIT_INTERRUPTED = 130
"""The same after Ctrl-C."""

EXIT_HUNG = 86
"""Exit status of a rank that made no progress; its stacks are written (`faults/watchdog.py`)."""

_SAID = (EXIT_CONFIGURATION, EXIT_STOPPED, EXIT_REQUEUE, EXIT_TERMINATED, EXIT_INTERRUPTED, EXIT_HUNG)
"""Statuses of ranks that have said what there is to say, to which torchrun's account adds nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ranks to their end. Returns the exit status; a failure raises as torchrun's does."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    previous = signal.signal(signal.SIGUSR1, _pass_on)
    try:
        run.main(list(sys.argv[1:] if argv is None else argv))
    except SignalException as error:
        return 128 + int(error.sigval)  # The ranks were told too, and have ended.
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode not in _SAID:
            raise
        return failure.exitcode
    finally:
        signal.signal(signal.SIGUSR1, previous)
    return 0


def _pass_on(number: int, frame: FrameType | None) -> None:
    """Send the signal to the ranks: the children that torchrun gave a rank. Their own children are theirs to tell."""
    import psutil

    for child in psutil.Process().children():
        try:
            if "RANK" in child.environ():
                child.send_signal(number)
        except psutil.Error:
            continue  # It ended in the meantime.


if __name__ == "__main__":
    sys.exit(main())
