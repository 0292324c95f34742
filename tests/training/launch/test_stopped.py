"""Runs that stop over their data or their numbers end with one line and the report of what was wrong; runs of several
ranks end at once, whatever processes read their data."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cambrian_gaze.data.quarantine import first_rows, read_quarantine
from cambrian_gaze.training.launch.agent import EXIT_STOPPED
from tests.training._ranks import launch
from tests.training._runs import ROOT, flags, run_noting_errors, write_data

DAMAGED = {"train_sampling_strategy": "sequential", "max_quarantined_share": 0.05}
DIVERGING = {"learning_rate": 1e30, "max_bad_steps": 0}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    ("rows", "changes", "log", "said"),
    [
        ("iibiii", DAMAGED, "quarantine.jsonl", "(25.0%) could not be used, more than max_quarantined_share=5.0%"),
        ("iibiii", {**DAMAGED, "packing": True}, "quarantine.jsonl", "more than max_quarantined_share=5.0%"),
        ("iiiiii", DIVERGING, "bad_steps.jsonl", "more than max_bad_steps=0"),
    ],
    ids=["damaged", "damaged, packed", "diverging"],
)
def test_one_line_and_the_report(
    rows: str, changes: dict[str, object], log: str, said: str, ranks: int, tmp_path: Path
) -> None:
    data, output = write_data(tmp_path / "data", list(rows)), tmp_path / "run"
    codes = launch(ranks, run_noting_errors, flags(data, output, **changes), str(tmp_path / "note"), ends=EXIT_STOPPED)
    assert codes == [EXIT_STOPPED] * ranks
    told = "".join(path.read_text() for path in tmp_path.glob("note*"))
    (line,) = [line for line in told.splitlines() if line.startswith("cambrian-gaze ")]
    assert said in line and str(output / log) in line and f"{data}, row " in line
    assert "or raise the limit" in line and "Traceback" not in told
    assert read_quarantine(output / log)


def test_the_first_rows_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert first_rows(log) == ""
    entry = '{"file": "a", "row": %d, "reason": "%s"}\n'
    log.write_text(entry % (1, "a, row 1: torn") + entry % (4, "x" * 999) + entry % (5, "y"))
    first, second, more = first_rows(log, shown=2).split("; ")
    assert first == "a, row 1: torn" and second.startswith("a, row 4: xxx") and len(second) < 320
    assert more == "and 1 more"


def start(data: Path, output: Path, *more: str, **changes: object) -> tuple[int, str, float]:
    """Status, stderr and seconds of a run on two ranks, whose samples other processes read and keep reading."""
    words = [sys.executable, "-m", "cambrian_gaze.cli.main", "train", *flags(data, output, **changes), *more]
    words += ["--nproc_per_node=2", "--dataloader_num_workers=2", "--dataloader_persistent_workers"]
    began = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, cwd=ROOT)
    return done.returncode, done.stderr, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "changes", "status"),
    [
        ("iiiiii", {}, 0),
        ("iiiiii", {"eval_data_path": "same", "eval_strategy": "steps", "eval_steps": 2}, 0),
        ("iibiii", DAMAGED, EXIT_STOPPED),
        ("iiiiii", DIVERGING, EXIT_STOPPED),
    ],
    ids=["finished", "evaluated", "damaged", "diverging"],
)
def test_kept_workers_end_with_the_run(
    rows: str, changes: dict[str, object], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the 60 seconds in which they would outlive a request, and without their tracebacks."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = write_data(tmp_path / "data", list(rows))
    if "eval_data_path" in changes:
        changes = {**changes, "eval_data_path": data}
    ended, told, seconds = start(data, tmp_path / "run", **changes)
    assert ended == status, told
    assert "Alarm clock" not in told and "Traceback" not in told, told
    assert seconds < 55, told
