"""The steps of a row on this machine, one after the other, each in a process of its own."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cambrian_gaze.children import own_modules
from cambrian_gaze.reproduce.commands import Options, Step
from cambrian_gaze.reproduce.done import record_evaluation, unfinished
from cambrian_gaze.reproduce.rows import Chain


def run_steps(
    wanted: Sequence[Step], steps: list[Step], chain: Chain, options: Options, say: Callable[[str], None]
) -> int:
    """Run those of `wanted` that are not done, in order. Returns the exit status of the first that fails, or 0.

    Args:
        steps: all of the row.
        say: takes a line of text.

    Raises: ValueError where a step is running already.
    """
    for step in wanted:
        with alone(options.work, step) as lock:
            reason = unfinished(step, steps, chain, options)
            if reason is None:
                say(f"{step.name}: done, {step.output}")
                continue
            say(f"{step.name}: {reason}; {command_text(step.words)}")
            status = run_command(step.words, lock)
        if status:
            say(f"{step.name} ended with status {status}; the same command goes on from here")
            return status
        if step.name == "evaluation":
            record_evaluation(step, steps[-3].output, chain, options)
        reason = unfinished(step, steps, chain, options)
        if reason is not None:
            say(f"{step.name} ended with status 0, but {reason}: look at {step.output}")
            return 1
    return 0


def command_text(words: Sequence[str]) -> str:
    """A command as a shell would take it."""
    import shlex

    return shlex.join(["cambrian-gaze", *words])


def run_command(words: Sequence[str], lock: int | None = None) -> int:
    """Run `cambrian-gaze` with these words; a signal that asks this process to stop is passed on. `lock`: a file
    descriptor that the process inherits, see `alone`."""
    command = [sys.executable, "-m", "cambrian_gaze.cli.main", *words]
    sys.stdout.flush()
    process = subprocess.Popen(command, env=own_modules(os.environ), pass_fds=() if lock is None else (lock,))

    def pass_on(number: int, frame: object) -> None:
        process.send_signal(number)

    # The terminal sends an interrupt to the step as well.
    handlers = {signal.SIGTERM: pass_on, signal.SIGUSR1: pass_on, signal.SIGINT: lambda number, frame: None}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


@contextmanager
def alone(work: Path, step: Step) -> Iterator[int]:
    """Hold the lock of a step's output, which rows may share: yields a descriptor that its process inherits, so that a
    step that outlives this process is not started a second time.

    Raises: ValueError where another process holds it.
    """
    folder = work / "runs" / "reproduce"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{step.output.name}.lock"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{step.name} is running already, for another row or from a command that has ended ({path} is held): "
                "wait for it to end, or end it"
            ) from error
        yield file
    finally:
        os.close(file)
