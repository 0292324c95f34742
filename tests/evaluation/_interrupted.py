"""Processes of a run that can be killed at any moment: forked from a server that has imported everything already."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path

PRELOADED = ["cambrian_gaze.cli.checkpoint", "cambrian_gaze.evaluation.run", "datasets", "accelerate", "tqdm"]


def _rank(arguments: Sequence[str], rank: int, world: int, port: int, cache: str, log: str) -> None:
    """One process of `cambrian-gaze eval run`, as a launcher would start it."""
    sys.stdout = sys.stderr = open(log, "a")  # noqa: SIM115  until the process ends
    if world > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"})
    import datasets
    import torch

    from cambrian_gaze.cli.main import main

    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = Path(cache)
    sys.exit(main(["eval", "run", *arguments]))


class Interrupter:
    """Runs the command with 1 or 2 processes, killed at some moment or left to end."""

    def __init__(self, cache: Path, log: Path) -> None:
        self.context = get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.cache, self.log = str(cache), str(log)

    def run(self, arguments: Sequence[str], world: int, killed: Callable[[], bool] = lambda: False) -> bool:
        """True where it ended by itself, with status 0; False where `killed` became true before."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = [
            self.context.Process(target=_rank, args=(list(arguments), rank, world, port, self.cache, self.log))
            for rank in range(world)
        ]
        for process in ranks:
            process.start()
        end = time.monotonic() + 120
        while any(process.is_alive() for process in ranks) and not killed() and time.monotonic() < end:
            time.sleep(0.005)
        ended = not any(process.is_alive() for process in ranks)
        for process in ranks:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
            process.join()
        assert time.monotonic() < end, f"not finished after 120 s: {Path(self.log).read_text()[-3000:]}"
        assert not ended or all(process.exitcode == 0 for process in ranks), Path(self.log).read_text()[-3000:]
        return ended
