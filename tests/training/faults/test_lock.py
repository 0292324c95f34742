"""One run at a time in an output folder, and no rank without its launcher."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cambrian_gaze.training import run
from cambrian_gaze.training.config import config
from cambrian_gaze.training.faults.lock import NAME, RunLock
from tests.training._runs import ROOT, flags

HOLD = """
import os, sys, time
from cambrian_gaze.training.faults.lock import RunLock
RunLock(sys.argv[1]).take()
if os.fork() == 0:
    time.sleep(60)  # as a loader's worker that outlives its rank
    os._exit(0)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds the lock of `tmp_path / "run"`, and a child of it."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        os.killpg(process.pid, signal.SIGKILL)


def test_a_second_run_is_told_who_writes_there(holder: subprocess.Popen, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"another run writes into .*run: process {holder.pid} on .*another output_dir"
    ):
        RunLock(tmp_path / "run").take(patience=0.3)
    holder.kill()
    lock = RunLock(tmp_path / "run")
    lock.take(patience=3.0)  # Its child lives, and does not hold it.
    lock.release()
    RunLock(tmp_path / "run").take(patience=0)


def test_a_run_waits_for_one_that_is_just_ending(holder: subprocess.Popen, tmp_path: Path) -> None:
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {holder.pid}"])
    RunLock(tmp_path / "run").take(patience=20.0)


def test_training_is_refused_and_writes_nothing(
    holder: subprocess.Popen, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("cambrian_gaze.training.faults.lock.PATIENCE", 0.0)
    monkeypatch.setattr(RunLock.take, "__defaults__", (0.0,))
    assert run.main(flags(pages, tmp_path / "run")) == 2
    assert f"process {holder.pid} on" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [NAME]


def test_the_lock_is_free_after_a_run(pages: Path, tmp_path: Path) -> None:
    run.train(config.load(flags(pages, tmp_path, max_steps=1, save_strategy="no")))
    RunLock(tmp_path).take(patience=0)


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    import errno

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    RunLock(tmp_path).take()
    assert "nothing keeps a second run out" in caplog.text


ORPHAN = """
import os, signal, sys, time
from cambrian_gaze.training.faults.orphan import end_with_launcher
if os.fork():
    sys.stdin.read()  # the launcher
    os._exit(0)
def stop(number, frame):
    print("asked to stop", flush=True)
    if sys.argv[1] == "obedient":
        os._exit(0)
signal.signal(signal.SIGTERM, stop)
end_with_launcher(poll=0.05, grace=0.3)
print(os.getpid(), flush=True)
while True:
    time.sleep(0.1)
"""


@pytest.mark.parametrize("kind", ["obedient", "stubborn"])
def test_a_rank_ends_with_its_launcher(kind: str) -> None:
    command = [sys.executable, "-c", ORPHAN, kind]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as launcher:
        rank = int(launcher.stdout.readline())
        time.sleep(0.2)
        os.kill(rank, 0)
        launcher.kill()
        assert launcher.stdout.readline() == b"asked to stop\n"
        assert launcher.stdout.read() == b""  # The pipe is closed once the rank is gone.
