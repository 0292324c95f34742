"""How many processes a command line starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cambrian_gaze
from cambrian_gaze.training.config.layers import ConfigError
from cambrian_gaze.training.launch.ranks import (
    launch_command,
    launch_environment,
    processes_wanted,
    start_ranks,
    under_launcher,
)
from cambrian_gaze.training.metrics.log import read_log
from tests.training._runs import ROOT, TINY


def test_flag_then_file_then_one(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("nproc_per_node: 4\n")
    path = tmp_path / "run.yaml"
    path.write_text("base: base.yaml\n")
    assert processes_wanted([]) == 1
    assert processes_wanted([str(path)]) == 4
    assert processes_wanted([str(path), "--nproc_per_node=2"]) == 2
    assert processes_wanted([str(path), "--nproc_per_node", "1", "--seed", "0"]) == 1
    for wrong in ("0", "two"):
        with pytest.raises(ConfigError, match=wrong):
            processes_wanted(["--nproc_per_node", wrong])


def test_a_single_process_and_a_launched_rank_go_on_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_ranks(["--num_processes", "1", "--seed=3"]) == ["--num_processes", "1", "--seed=3"]
    assert processes_wanted(["--num-processes=2"]) == processes_wanted(["--nproc-per-node", "2"]) == 2
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert start_ranks(["--num-processes=2"]) == ["--num-processes=2"]
    assert under_launcher({"RANK": "0", "WORLD_SIZE": "2"})
    assert not under_launcher({"RANK": "0"})


def test_deepspeed_gets_a_launcher_even_for_one_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("deepspeed: zero2.json\n")
    started = []
    monkeypatch.setattr("os.execve", lambda *call: started.append(call))
    start_ranks([str(path), "--deepspeed", "null"])
    assert not started
    start_ranks([str(path)])
    assert started[0][1][:6] == launch_command(1, [])[:6]


def test_the_launcher_shares_out_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert launch_environment(2, {})["OMP_NUM_THREADS"] == "4"
    assert launch_environment(2, {"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"
    command = launch_command(2, ["run.yaml", "--seed=1"])
    assert command[:3] == [sys.executable, "-m", "cambrian_gaze.training.launch.agent"]
    assert command[-4:] == ["-m", "cambrian_gaze.cli.train", "run.yaml", "--seed=1"]


def test_the_launcher_does_not_import_torch() -> None:
    code = "import sys, cambrian_gaze.training.launch.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_rank_leaves_its_process_group_at_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without it the ranks of other hosts may find the connection closed while they still use it."""
    from cambrian_gaze.training import run

    done = []
    monkeypatch.setattr(run, "first_rank_decides", lambda decide: decide())
    monkeypatch.setattr(run, "prepare", lambda *_: (None, None))
    monkeypatch.setattr(run, "finish", lambda *_: done.append("trained"))
    monkeypatch.setattr(run.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(run.dist, "destroy_process_group", lambda: done.append("left"))
    assert run.main([f"--output_dir={tmp_path}", "--use_cpu"]) == 0
    assert done == ["trained", "left"]


@pytest.mark.slow
def test_the_command_trains_on_two_ranks(pages: Path, tmp_path: Path) -> None:
    """The whole way: `cambrian-gaze train CONFIG.yaml --nproc_per_node 2`, and a second call that finds it finished."""
    values = {**TINY, "use_cpu": False, "deepspeed": str(ROOT / "train" / "deepspeed" / "zero2.json"), "max_steps": 2}
    config = tmp_path / "run.yaml"
    config.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
    command = [sys.executable, "-m", "cambrian_gaze.cli.main", "train", str(config), "--nproc_per_node", "2"]
    command += [f"--data_path={pages}", f"--image_folder={pages.parent}", f"--output_dir={tmp_path / 'out'}"]
    for _ in range(2):
        subprocess.run(command, check=True, cwd=ROOT)
        assert [(line["step"], line["attempt"]) for line in read_log(tmp_path / "out")] == [(1, 1), (2, 1)]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not know the setting")
def test_ranks_take_no_module_from_the_working_folder(tmp_path, monkeypatch) -> None:
    for name in ("json", "yaml", "torch"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    environment = launch_environment(1, {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"})
    command = [sys.executable, "-m", "cambrian_gaze.training.launch.agent", "--help"]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    assert not (tmp_path / "ran").exists()
    monkeypatch.chdir(Path(cambrian_gaze.__file__).parents[1])
    assert "PYTHONSAFEPATH" not in launch_environment(1, {}), "a checkout that is not installed"
