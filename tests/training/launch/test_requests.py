"""Signals to one process and to its loader's workers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from cambrian_gaze.training import run
from cambrian_gaze.training.checkpoint.checkpoint import incomplete_because
from cambrian_gaze.training.launch.agent import EXIT_INTERRUPTED, EXIT_REQUEUE, EXIT_TERMINATED
from cambrian_gaze.training.launch.requests import StopRequest
from cambrian_gaze.training.metrics.log import read_log
from tests.training._runs import flags


def test_a_request_to_come_back_is_more_than_one_to_end() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    for numbers, status in (
        ([], 0),
        ([signal.SIGTERM], EXIT_TERMINATED),
        ([signal.SIGUSR1, signal.SIGTERM], EXIT_REQUEUE),
        ([signal.SIGTERM, signal.SIGUSR1], EXIT_REQUEUE),
        ([signal.SIGINT], EXIT_INTERRUPTED),
        ([signal.SIGINT, signal.SIGTERM], EXIT_TERMINATED),
    ):
        with StopRequest().listening() as request:
            request.can_save = True
            for number in numbers:
                os.kill(os.getpid(), number)
            assert request.agree(torch.device("cpu")) == status
    assert signal.getsignal(signal.SIGUSR1) == before


WORKER = """
import os, signal, sys, time
from cambrian_gaze.training.launch import requests
requests.WORKER_GRACE = 1
requests.outlive_requests()
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


def test_a_worker_outlives_the_request_for_a_while() -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE) as worker:
        assert worker.stdout.readline() == b"ready\n"
        worker.send_signal(signal.SIGUSR1)
        worker.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert worker.poll() is None
        assert worker.wait(timeout=10) == -signal.SIGALRM


class CtrlC(TrainerCallback):
    """Interrupts this process in a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_and_the_same_command_goes_on(pages: Path, tmp_path: Path, capfd) -> None:
    argv, before = flags(pages, tmp_path, max_steps=5, save_steps=100), signal.getsignal(signal.SIGINT)
    assert run.main(argv, [CtrlC(2)]) == EXIT_INTERRUPTED
    assert "Ctrl-C again ends it at once" in capfd.readouterr().err
    assert incomplete_because(tmp_path / "checkpoint-2") is None and not (tmp_path / "model.safetensors").exists()
    assert run.main(argv) == 0
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4, 5]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_before_the_first_step_ends_the_run(pages: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(run, "build_model", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert run.main(flags(pages, tmp_path)) == EXIT_INTERRUPTED
    assert "interrupted before the first step" in capsys.readouterr().err


SECOND = """
import os, signal
from cambrian_gaze.training.launch.requests import StopRequest
with StopRequest().listening() as request:
    request.can_save = True
    os.kill(os.getpid(), signal.SIGINT)
    print("still there", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("not reached")
"""


def test_a_second_ctrl_c_ends_it_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", SECOND], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "still there\n")
    assert "Traceback" not in done.stderr
