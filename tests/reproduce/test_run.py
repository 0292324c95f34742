"""A tiny row from a copy of the repository to its table, killed twice on the way; and a row on videos."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cambrian_gaze.training.metrics.log import read_log
from tests.reproduce._data import write_folder
from tests.training._runs import ROOT

pytestmark = pytest.mark.slow
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "tests", "checkpoints", "runs", "data", "*.egg-info", "build")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's files, and nothing that was made here."""
    folder = tmp_path_factory.mktemp("clone") / "cambrian-gaze"
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    shutil.copytree(ROOT / "cambrian_gaze" / "data", folder / "cambrian_gaze" / "data", dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("folder") / "data")


def reproduce(clone: Path, *words: object, until: Callable[[], bool] = lambda: False) -> tuple[int, str]:
    """Status and output of the command in a session of its own, all of it killed as soon as `until` is true."""
    log = clone.parent / "log.txt"
    environment = {**os.environ, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cambrian_gaze.cli.main", "reproduce", *map(str, words)]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=clone, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + 900
        while process.poll() is None and time.monotonic() < deadline:
            if until():
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.02)
    return process.wait(timeout=10), log.read_text()


def test_a_row_killed_twice_on_the_way(clone: Path, data: Path) -> None:
    words = ["table1", "--row", "Cambrian-4B + Gaze 72+4", "--preset", "tiny", "--data", data]
    stage1, stage2 = (clone / "checkpoints" / name for name in ("pretrain_cambrian_4b", "finetune_cambrian_4b_gaze_72"))
    output = clone / "runs" / "eval" / "cambrian-4b-gaze-72-4"
    journal = output / "journal" / "rank-00000.jsonl"

    status, said = reproduce(clone, *words, until=(stage2 / "checkpoint-2" / "complete.json").is_file)
    assert status == -signal.SIGKILL and not (stage2 / "lineage.json").exists(), said
    first = (stage1 / "model.safetensors").stat().st_mtime_ns

    status, said = reproduce(clone, *words, until=lambda: journal.is_file() and journal.stat().st_size > 2000)
    assert status == -signal.SIGKILL and "stage1: done" in said, said
    answered = len(journal.read_text().splitlines())
    second = (stage2 / "model.safetensors").stat().st_mtime_ns

    status, said = reproduce(clone, *words)
    assert status == 0, said[-4000:]
    assert "stage1: done" in said and "stage2: done" in said
    assert (stage1 / "model.safetensors").stat().st_mtime_ns == first
    assert (stage2 / "model.safetensors").stat().st_mtime_ns == second
    assert [line["step"] for line in read_log(stage2)] == [1, 2, 3, 4, 5, 6]
    assert len(read_log(stage2, "end")) == 1
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()[: answered - 1]]
    assert len(set(keys)) == len(keys) > 0
    table = json.loads((output / "table.json").read_text())
    cells = [cell for cell in table["cells"] if cell["column"] not in table["averages"]]
    assert len(cells) == 28 and all(cell["measured"] is not None and not cell["missing"] for cell in cells)
    assert {(cell["attended"]["visual"], cell["attended"]["context"]) for cell in cells if cell["column"] == "gqa"} == {
        (8.0, 4.0)
    }

    status, said = reproduce(clone, *words)
    assert status == 0 and "Cambrian-4B + Gaze 72+4: done" in said and "stage1" not in said
    # What is done is looked at, not remembered: changed answers are answered again, a changed table written again.
    written = (output / "table.json").read_text()
    (output / "table.json").write_text(written.replace('"measured": 0.0', '"measured": 9.0'))
    status, said = reproduce(clone, *words, "--dry_run")
    assert status == 0 and "# evaluation: done" in said and "# table: it is not what the answers score" in said
    status, said = reproduce(clone, *words, "--learning_rate", "0.5")
    assert status == 2 and "holds a run of other settings (learning_rate is" in said


def test_a_row_on_videos(clone: Path, data: Path) -> None:
    words = ["video", "--row", "Cambrian-4B + Gaze 4K", "--preset", "tiny", "--data", data, "--protocol", "cambrian"]
    status, said = reproduce(clone, *words)
    assert status == 0, said[-4000:]
    video = clone / "checkpoints" / "finetune_video_cambrian_4b_gaze_4k"
    assert [line["step"] for line in read_log(video)] == [1, 2, 3, 4, 5, 6]
    roles = {one["role"] for one in json.loads((video / "lineage.json").read_text())["parents"]}
    assert roles == {"model"}
