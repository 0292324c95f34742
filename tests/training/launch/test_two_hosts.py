"""Training over two hosts, one of which dies in mid-run: ZeRO-2 over a virtual link between network namespaces."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cambrian_gaze.training.metrics.log import read_log
from tests.training._hosts import Host, two_hosts
from tests.training._ranks import launch
from tests.training._runs import ROOT, TINY, flags, run
from tests.training.checkpoint.test_resume import exact, zero

STEPS = 40
RUN = {"deepspeed": zero(2), "max_steps": STEPS, "save_steps": 5}


def start(hosts: tuple[Host, Host], config: Path, attempt: int) -> list[subprocess.Popen]:
    """`scripts/launch.sh` on each host, as a user would start it."""
    agents = []
    for number, host in enumerate(hosts):
        environment = {
            **os.environ,
            **{
                "PYTHON": sys.executable,
                "OMP_NUM_THREADS": "1",
                "NPROC_PER_NODE": "1",
                "RDZV_ID": f"attempt-{attempt}",
            },
            **{"NNODES": "2", "NODE_RANK": str(number), "MASTER_ADDR": hosts[0].address, "MASTER_PORT": "29411"},
            **{"LOCAL_ADDR": host.address, "GLOO_SOCKET_IFNAME": host.interface, "DS_ACCELERATOR": "cpu"},
        }
        with open(config.with_name(f"host{number}-{attempt}.log"), "w") as output:
            agents.append(host.start([str(ROOT / "scripts" / "launch.sh"), str(config)], environment, output))
    return agents


def wait_for(condition, agents: list[subprocess.Popen], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        assert all(agent.poll() is None for agent in agents), f"a host stopped before {what}"
        time.sleep(0.02)


def last_step(folder: Path) -> int:
    log = folder / "train_log.jsonl"
    return max((line["step"] for line in read_log(folder)), default=0) if log.exists() else 0


@pytest.mark.slow
def test_a_host_dies_and_the_run_goes_on_as_if_it_had_not(pages: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    values = {**TINY, **RUN, "data_path": [str(pages)], "image_folder": str(pages.parent), "output_dir": str(broken)}
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(values))  # JSON is YAML
    with contextlib.ExitStack() as stack:
        try:
            first, second = stack.enter_context(two_hosts())
        except OSError as error:
            pytest.skip(f"this machine has no network namespaces for us ({error})")
        agents = start((first, second), config, 1)
        wait_for(lambda: last_step(broken) >= 12, agents, 240, "step 12")
        second.kill()
        stopped_at = last_step(broken)
        assert agents[0].wait(timeout=90) != 0, "the host that is left must not go on alone"
        assert 12 <= stopped_at < STEPS
        assert not first.processes()

        agents = start((first, second), config, 2)
        assert [agent.wait(timeout=240) for agent in agents] == [0, 0]
        assert not first.processes() + second.processes()
    assert launch(2, run, flags(pages, whole, **RUN)) == [0, 0]
    assert {line["attempt"] for line in read_log(broken)} == {1, 2}
    assert exact(broken) == exact(whole)
    assert len(exact(whole)) == STEPS
