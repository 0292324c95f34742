"""Signals to one process and to its loader's workers."""

import os
import signal
import subprocess
import sys
import time

import torch

from cambrian_gaze.training.agent import EXIT_REQUEUE, EXIT_TERMINATED
from cambrian_gaze.training.requests import StopRequest


def test_a_request_to_come_back_is_more_than_one_to_end() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    for numbers, status in (
        ([], 0),
        ([signal.SIGTERM], EXIT_TERMINATED),
        ([signal.SIGUSR1, signal.SIGTERM], EXIT_REQUEUE),
        ([signal.SIGTERM, signal.SIGUSR1], EXIT_REQUEUE),
    ):
        with StopRequest().listening() as request:
            for number in numbers:
                os.kill(os.getpid(), number)
            assert request.agree(torch.device("cpu")) == status
    assert signal.getsignal(signal.SIGUSR1) == before


WORKER = """
import os, signal, sys, time
from cambrian_gaze.training import requests
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
