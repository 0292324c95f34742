"""Runs a function on several ranks, as torchrun would, from one process that has imported everything already."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from typing import Any

PRELOAD = [
    "tests.training._ranks",
    "cambrian_gaze.training.run",
    "deepspeed.runtime.engine",
    "deepspeed.runtime.zero.muon.muon_optimizer",
]
"""What the ranks need, and what DeepSpeed imports late (seconds); a name that is not there is passed over."""


def launch(
    ranks: int,
    function: Callable[..., int],
    *args: Any,
    timeout: float = 240.0,
    group_of_one: bool = False,
    watch: Callable[[list[Any]], None] | None = None,
    ends: int = 0,
) -> list[int]:
    """Exit codes of the ranks. When one fails the others are killed, as a launcher does; so are all at the timeout. A
    rank that ends with `ends` has not failed.

    A single rank is a process like any other; as a `group_of_one` it has a launcher's environment, as DeepSpeed wants.
    `watch` is called with the processes again and again.
    """
    os.environ["DS_ACCELERATOR"] = "cpu"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        context.Process(target=_rank, args=(r, ranks, port if ranks > 1 or group_of_one else None, function, args))
        for r in range(ranks)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + timeout
    while any(p.is_alive() for p in processes):
        if time.monotonic() > deadline or any(p.exitcode not in (None, 0, ends) for p in processes):
            for process in processes:
                process.kill()
        if watch is None:
            time.sleep(0.05)
        else:
            watch(processes)
            time.sleep(0.002)
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _rank(rank: int, ranks: int, port: int | None, function: Callable[..., int], args: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    if port is not None:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(ranks),
            LOCAL_WORLD_SIZE=str(ranks),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    os._exit(function(*args))
