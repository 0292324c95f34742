"""`scripts/gpu_check.sh`: its time adds up, and every command that it calls runs (here on a CPU, at tiny sizes)."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts/gpu_check.sh"
STEPS = {name: int(limit) for name, limit in re.findall(r"^bench (\S+) (\d+) ", SCRIPT.read_text(), re.MULTILINE)}


def test_its_limits_are_less_than_ten_minutes() -> None:
    (of_tests,) = re.findall(r"timeout (\d+) \"\$PYTHON\" -m pytest", SCRIPT.read_text())
    assert len(STEPS) == 6 and int(of_tests) + sum(STEPS.values()) < 590


def test_what_auto_takes_ends_before_its_step_does() -> None:
    (seconds,) = re.findall(r"choose=\(--text 256 .*--time_limit (\d+)\)", SCRIPT.read_text())
    assert int(seconds) <= STEPS["choose"] / 2


def check(out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(out), **environment}
    return subprocess.run(["bash", str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=900)


def test_an_unknown_device_starts_nothing(tmp_path: Path) -> None:
    result = check(tmp_path, DEVICE="tpu")
    assert result.returncode == 2 and "DEVICE must be cuda or cpu, got tpu" in result.stderr


@pytest.mark.slow
def test_every_command_of_it_runs(tmp_path: Path) -> None:
    result = check(tmp_path, DEVICE="cpu")
    assert result.returncode == 0, result.stdout + result.stderr
    for name in STEPS:
        (run,) = json.loads((tmp_path / f"{name}.json").read_text())["runs"]
        assert any(row["median_us"] for row in run["rows"]), name
    for page in ("attention", "decode", "prefill", "train-step"):
        assert " --page " in (tmp_path / "benchmarks" / f"{page}.md").read_text()
    assert "skipped" in (tmp_path / "tests.log").read_text()
    assert "taken" in (tmp_path / "bench-choose.log").read_text()
