"""A disk that is full while a checkpoint is written: the last good one stays, the run stops and says so."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cambrian_gaze.training.checkpoint.checkpoint import checkpoint_steps, incomplete_because
from cambrian_gaze.training.launch.agent import EXIT_STOPPED
from tests.training._ranks import launch
from tests.training._runs import flags, run, run_noting_errors
from tests.training.checkpoint.test_resume import exact, zero


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; the test says how large."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_last_good_checkpoint_stays(pages: Path, small_disk: Path, tmp_path: Path, ranks: int) -> None:
    changes = {"deepspeed": zero(2)} if ranks > 1 else {}
    whole, output, note = tmp_path / "whole", small_disk / "run", tmp_path / "note"
    assert launch(ranks, run, flags(pages, whole, **changes)) == [0] * ranks
    # Of a tiny run's checkpoints (5 MB, with ZeRO 8 MB), one fits and two do not.
    resize(small_disk, "8m" if ranks == 1 else "14m")
    codes = launch(ranks, run_noting_errors, flags(pages, output, **changes), str(note))
    assert EXIT_STOPPED in codes and 0 not in codes
    said = "".join(path.read_text() for path in tmp_path.glob("note*"))
    assert f"{output}/checkpoint-6 could not be written" in said
    assert f"{output}/checkpoint-3 is whole and the same command goes on from it" in said
    assert incomplete_because(output / "checkpoint-3", hashes=True) is None
    good = [step for step, path in checkpoint_steps(output) if incomplete_because(path) is None]
    assert good == [3]
    if ranks == 1:
        assert not (output / "checkpoint-6").exists(), "half a checkpoint would fill the disk"
    resize(small_disk, "64m")
    assert launch(ranks, run, flags(pages, output, **changes)) == [0] * ranks
    assert exact(output) == exact(whole)
