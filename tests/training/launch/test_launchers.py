"""The launchers of scripts/: each runs its configuration at the tiny size on two CPU ranks, by torchrun and by
hostfile; what they refuse; and the SLURM script against commands that stand in for SLURM's."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cambrian_gaze.training.launch.agent import EXIT_REQUEUE, EXIT_STOPPED
from cambrian_gaze.training.metrics.log import read_log
from tests.training._runs import ROOT, write_data

SCRIPTS = ROOT / "scripts"
FAMILIES = ("pretrain", "finetune", "finetune_video")
TINY = [
    *("--preset", "tiny", "--vision_tower", "null", "--no_bf16"),
    *("--per_device_train_batch_size", "1", "--max_steps", "2", "--logging_steps", "1"),
    *("--dataloader_num_workers", "0", "--no_dataloader_persistent_workers", "--disable_tqdm"),
]


def environment(**values: object) -> dict[str, str]:
    """Two ranks, on this interpreter, four samples a step."""
    own = {"PYTHON": sys.executable, "NPROC_PER_NODE": 2, "GLOBAL_BATCH": 4, "OMP_NUM_THREADS": 1, **values}
    return {**os.environ, **{key: str(value) for key, value in own.items()}}


def start(script: str, *arguments: object, **values: object) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**values), timeout=300)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data of each family: pictures, and videos of three of them."""
    images = write_data(tmp_path_factory.mktemp("data"), list("iiiit"))
    videos = images.with_name("videos.jsonl")
    turns = [{"from": "human", "value": "<video>\nRead B3"}, {"from": "gpt", "value": "B3 7"}]
    record = {"id": "v", "video": ["0.png", "1.png", "2.png"], "conversations": turns}
    videos.write_text(json.dumps(record) + "\n" + json.dumps(record) + "\n")
    return {"pretrain": images, "finetune": images, "finetune_video": videos}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "rows", "hostfile"),
    [
        ("4b", ("compressed", "compressed_gaze_54", None), False),
        ("7b", ("compressed_dense", "compressed_dense", "dense"), True),
    ],
    ids=["4b by torchrun", "7b by hostfile"],
)
def test_both_stages_and_videos(
    size: str, rows: tuple[str | None, ...], hostfile: bool, records: dict[str, Path], tmp_path: Path
) -> None:
    values = {}
    if hostfile:
        (tmp_path / "hosts").write_text("localhost slots=2\n")
        values = {"HOSTFILE": tmp_path / "hosts", "NODE_RANK": 0, "MASTER_ADDR": "127.0.0.1", "NPROC_PER_NODE": ""}
    stage1, stage2 = tmp_path / "pretrain", tmp_path / "finetune"
    starts_from = {
        "pretrain": ["--model_name_or_path", "null"],
        "finetune": ["--model_name_or_path", "null", "--pretrain_mm_mlp_adapter", stage1 / "mm_projector.safetensors"],
        "finetune_video": ["--model_name_or_path", stage2],
    }
    for family, row in zip(FAMILIES, rows, strict=True):
        data = records[family]
        flags = [*TINY, "--data_path", data, "--image_folder", data.parent, "--video_folder", data.parent]
        flags += [*starts_from[family], "--output_dir", tmp_path / family]
        done = start(f"cambrian/{family}_cambrian_{size}.sh", *([row] if row else []), *flags, **values)
        assert done.returncode == 0, done.stderr[-4000:]
        assert "4 samples a step: 2 ranks × 1, accumulated over 2" in done.stdout
        assert [line["step"] for line in read_log(tmp_path / family)] == [1, 2]
        assert json.loads((tmp_path / family / "config.json").read_text())["mm_projector_type"].startswith("conv3x3")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", ["4b", "7b"])
def test_each_launcher_has_its_configurations(family: str, size: str) -> None:
    script = SCRIPTS / "cambrian" / f"{family}_cambrian_{size}.sh"
    text = script.read_text()
    stem = f"{family}_cambrian_{size}"
    default = re.search(r"^row=(.*)$", text, re.MULTILINE).group(1).strip('"')
    named = set(re.findall(r"[a-z0-9_]+", re.search(r"^# ROW: (.*)$", text, re.MULTILINE).group(1)))
    rows = {path.stem.removeprefix(stem).lstrip("_") for path in ROOT.glob(f"train/configs/{stem}*.yaml")}
    assert default in rows
    assert rows - {""} == {name for name in named if name in rows}
    assert named - rows <= {"default", "without", "one", "gaze"}


def test_a_batch_that_does_not_divide_starts_nothing() -> None:
    done = start("cambrian/finetune_cambrian_4b.sh", "gaze_144", GLOBAL_BATCH=500)
    assert (done.returncode, done.stdout) == (2, "")
    assert "global_batch_size 500 is no multiple of 2 ranks × per_device_train_batch_size 8" in done.stderr
    done = start("launch.sh", "train/configs/no_such.yaml")
    assert done.returncode == 2 and "no_such.yaml" in done.stderr


def test_several_machines_need_to_know_which_they_are(tmp_path: Path) -> None:
    done = start("launch.sh", "train/configs/stage1.yaml", NNODES=2, GLOBAL_BATCH=64)
    assert done.returncode == 2
    assert "NNODES=2 needs NODE_RANK and MASTER_ADDR" in done.stderr
    assert start("launch.sh").returncode == 2


def test_it_says_which_machine_listens(tmp_path: Path) -> None:
    """The command that a machine of four runs, by an interpreter that prints it."""
    python = stand_in(tmp_path, "python", 'echo "$@"')
    machines = {"PYTHON": python, "NNODES": 4, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": 1234, "LOCAL_ADDR": "10.0.0.2"}
    for node, is_host in ((0, "true"), (1, "false")):
        batch, agent = start("launch.sh", "run.yaml", "--seed", 3, NODE_RANK=node, **machines).stdout.splitlines()
        assert batch == "-m cambrian_gaze.training.launch.batch run.yaml --seed 3 --global_batch_size 4 --ranks 8"
        for part in ("--nnodes 4", "--nproc_per_node 2", "--rdzv_endpoint 10.0.0.1:1234", f"is_host={is_host}"):
            assert part in agent
        assert agent.endswith(
            "--local_addr 10.0.0.2 -m cambrian_gaze.cli.train run.yaml --seed 3 --global_batch_size 4"
        )


def test_a_hostfile_gives_the_number_of_ranks(tmp_path: Path) -> None:
    python, hosts = stand_in(tmp_path, "python", 'echo "$@"'), tmp_path / "hosts"
    hosts.write_text("# ours\nnode1 slots=8\nnode2 slots=4  # slots=9\n")
    batch, runner = start("launch.sh", "run.yaml", PYTHON=python, HOSTFILE=hosts).stdout.splitlines()
    assert batch.endswith("--ranks 12")
    assert runner.startswith(f"-m deepspeed.launcher.runner --hostfile {hosts} --no_local_rank --module")


def stand_in(folder: Path, name: str, text: str) -> Path:
    """An executable shell script."""
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Stand-ins for SLURM's commands and for Python, in PATH; the environment of a job on two machines."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls"
    stand_in(
        folder,
        "srun",
        f'echo "srun $*" >>"{calls}"\n'
        'while [[ $1 == --* ]]; do shift; done; status=0; pids=""\n'
        'for node in 0 1; do SLURM_NODEID=$node "$@" & pids="$pids $!"; done\n'
        f'echo $pids >"{tmp_path}/pids"\n'
        "for pid in $pids; do wait $pid || { now=$?; ((now <= status)) || status=$now; }; done; exit $status",
    )
    stand_in(folder, "scancel", f'echo "scancel $*" >>"{calls}"; kill -USR1 $(cat "{tmp_path}/pids")')
    stand_in(folder, "scontrol", f'echo "scontrol $*" >>"{calls}"; [[ $1 != show ]] || printf "first\\nsecond\\n"')
    # In place of the agent: ends by itself with $ENDS_WITH, or waits for the signal.
    python = stand_in(
        folder,
        "python",
        f'[[ $2 == *agent ]] || exit 0; echo "agent of node $NODE_RANK: $*" >>"{calls}"\n'
        "[[ -z $ENDS_WITH ]] || exit $ENDS_WITH\n"
        f'trap "exit {EXIT_REQUEUE}" USR1; touch "{tmp_path}/ready.$NODE_RANK"\n'
        "for i in {1..300}; do sleep 0.1; done; exit 1",
    )
    job = {"SLURM_JOB_ID": 7, "SLURM_JOB_NUM_NODES": 2, "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_SUBMIT_DIR": ROOT}
    job["SLURM_CPUS_PER_TASK"] = 24
    return environment(PYTHON=python, PATH=f"{folder}:{os.environ['PATH']}", **job)


def test_slurm_job_goes_back_into_the_queue_after_its_signal(slurm: dict[str, str], tmp_path: Path) -> None:
    script = SCRIPTS / "slurm" / "train.sbatch"
    job = subprocess.Popen([str(script), "run.yaml"], env={**slurm, "ENDS_WITH": ""}, start_new_session=True)
    deadline = time.monotonic() + 30
    while not all((tmp_path / f"ready.{node}").exists() for node in (0, 1)):
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGUSR1)
    assert job.wait(timeout=30) == EXIT_REQUEUE
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "scontrol show hostnames n[1-2]"
    [step] = [call for call in calls if call.startswith("srun")]
    assert "--cpus-per-task=24 " in step, "SLURM 22.05 and later give a step one processor otherwise"
    assert [call for call in calls if not call.startswith(("agent", "srun"))][1:] == [
        "scancel --signal=USR1 7.0",
        "scontrol requeue 7",
    ]
    agents = [call for call in calls if call.startswith("agent")]
    assert len(agents) == 2 and all("--nnodes 2" in call and "first:20007" in call for call in agents)
    assert sum("is_host=true" in call for call in agents) == 1


@pytest.mark.parametrize("status", [0, 1])
def test_slurm_job_that_ends_by_itself_is_not_requeued(slurm: dict[str, str], tmp_path: Path, status: int) -> None:
    script = SCRIPTS / "slurm" / "train.sbatch"
    job = subprocess.run([str(script), "run.yaml"], env={**slurm, "ENDS_WITH": str(status)}, timeout=30)
    assert job.returncode == status
    assert "requeue" not in (tmp_path / "calls").read_text()


def test_the_number_is_the_same_everywhere() -> None:
    assert f"EXIT_REQUEUE={EXIT_REQUEUE}\n" in (SCRIPTS / "slurm" / "train.sbatch").read_text()
    assert f"**{EXIT_REQUEUE}**" in (ROOT / "docs" / "cluster.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("status", "expected"), [(EXIT_REQUEUE, EXIT_REQUEUE), (EXIT_STOPPED, EXIT_STOPPED), (4, 1)])
def test_the_agent_passes_the_signal_on_and_the_status_back(status: int, expected: int, tmp_path: Path) -> None:
    rank = tmp_path / "rank.py"
    rank.write_text(
        "import os, pathlib, signal, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '60'])  # as a worker of the data loader: not to be told\n"
        "def stop(number, frame):\n"
        "    time.sleep(0.2)\n"
        "    alive = child.poll() is None\n"
        "    child.kill()\n"
        f"    os._exit({status} if alive else 9)\n"
        "signal.signal(signal.SIGUSR1, stop)\n"
        f"pathlib.Path({str(tmp_path)!r}, 'ready.' + os.environ['RANK']).touch()\n"
        "time.sleep(60)\n"
    )
    command = [
        sys.executable,
        "-m",
        "cambrian_gaze.training.launch.agent",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(rank),
    ]
    agent = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ready.*"))) < 2:
        assert time.monotonic() < deadline and agent.poll() is None
        time.sleep(0.05)
    agent.send_signal(signal.SIGUSR1)
    assert agent.wait(timeout=60) == expected
