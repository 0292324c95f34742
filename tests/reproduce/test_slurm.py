"""Jobs that wait for each other, submitted to commands that stand in for SLURM's."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from cambrian_gaze.cli.main import main
from cambrian_gaze.evaluation.tables.table import read_table
from cambrian_gaze.reproduce import run
from tests.reproduce._data import write_folder
from tests.training._runs import ROOT
from tests.training.launch.test_launchers import stand_in

ROW = "Cambrian-4B + Gaze 72+4"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The words that `sbatch` is given, a JSON list per line; its jobs have the numbers 101, 102, …"""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    dump = "import json, sys; print(json.dumps(sys.argv[1:]))"
    stand_in(
        folder,
        "sbatch",
        f"python3 -c '{dump}' \"$@\" >>'{calls}'; n=$(wc -l <'{calls}')\n"
        "[[ $n != ${REFUSED:-0} ]] || { echo 'no such partition' >&2; exit 1; }\necho $((100 + n))",
    )
    stand_in(folder, "squeue", "echo $QUEUED")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("QUEUED", "")
    monkeypatch.chdir(ROOT)
    return calls


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command for a tiny row, its plan made in this process; benchmarks that are there and not read."""
    monkeypatch.setattr(run, "run_command", main)
    data = write_folder(tmp_path / "data", benchmarks=False)
    for benchmark in read_table(ROOT / "eval" / "tables" / "table1.yaml").benchmarks:
        (data / "benchmarks" / benchmark.source.dataset).mkdir(parents=True, exist_ok=True)
        (data / "benchmarks" / benchmark.source.dataset / "data").touch()
    options = ["--preset", "tiny", "--data", str(data), "--work", str(tmp_path / "work")]
    return ["reproduce", "table1", "--row", ROW, "--slurm", "--gpus", "2", *options]


def submitted(calls: Path) -> list[list[str]]:
    return [json.loads(line) for line in calls.read_text().splitlines()]


def value(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_each_job_waits_for_the_one_before(
    calls: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert main([*words, "--nodes", "4", "--time", "24:00:00", "--seed", "3"]) == 0
    jobs = submitted(calls)
    assert [value(job, "--job-name").rsplit("-", 1)[1] for job in jobs] == ["stage1", "stage2", "evaluation", "table"]
    assert "--dependency" not in jobs[0]
    assert [value(job, "--dependency") for job in jobs[1:]] == ["afterok:101", "afterok:102", "afterok:103"]
    assert [value(job, "--nodes") for job in jobs] == ["4", "4", "1", "1"]
    for job in jobs[:2]:
        assert "scripts/slurm/train.sbatch" in job
        assert (value(job, "--time"), value(job, "--seed")) == ("24:00:00", "3")
        assert "--nproc_per_node" not in job, "the job's launcher counts its ranks"
    for job, step in zip(jobs[2:], ("evaluation", "table"), strict=True):
        own = job[job.index("scripts/slurm/step.sbatch") + 1 :]
        assert own[:4] == ["reproduce", "table1", "--row", ROW] and value(own, "--step") == step
        assert value(own, "--work") == str(tmp_path / "work") and "--slurm" not in own
    assert "job 104, after 103" in capsys.readouterr().out

    monkeypatch.setenv("QUEUED", "102")
    assert main(words) == 2
    assert "still queued: 102" in capsys.readouterr().err and len(submitted(calls)) == 4


def test_a_refused_job_names_those_before_it(
    calls: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("REFUSED", "2")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "sbatch refused stage2: no such partition" in error and "scancel 101" in error


def test_a_dry_run_submits_nothing(calls: Path, words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main([*words, "--dry_run"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sbatch")]
    assert len(said) == 4 and "afterok:$STAGE1" in said[1].replace("'", "") and not calls.exists()


def test_the_job_of_a_step_runs_the_command(tmp_path: Path) -> None:
    python = stand_in(tmp_path, "python", 'printf "%s\\n" "$@"')
    job = subprocess.run(
        [ROOT / "scripts" / "slurm" / "step.sbatch", "reproduce", "table1", "--row", ROW, "--step", "table"],
        env={**os.environ, "PYTHON": str(python), "SLURM_SUBMIT_DIR": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    said = job.stdout.splitlines()
    assert said == ["-m", "cambrian_gaze.cli.main", "reproduce", "table1", "--row", ROW, "--step", "table"]
