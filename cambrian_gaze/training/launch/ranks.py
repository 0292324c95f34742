"""One process or several: who starts the ranks of a training run.

Under torchrun, `deepspeed` or `accelerate launch` the run starts in this process; otherwise N > 1 processes are started
through `agent.py` (torchrun), which stops all of them when one fails. Nothing here imports torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from cambrian_gaze.children import own_modules
from cambrian_gaze.training.config.flags import number
from cambrian_gaze.training.config.layers import ConfigError
from cambrian_gaze.training.config.values import setting

FLAG = "nproc_per_node"
"""Number of processes, by torchrun's name; Accelerate's `--num_processes` is taken too."""

TRAINING = "cambrian_gaze.cli.train"
"""The module of a training run's ranks: the command, which hands in what training does not know."""


def start_ranks(argv: Sequence[str]) -> list[str]:
    """Replace this process by a launcher where several ranks or DeepSpeed are wanted and none has started us; else
    return `argv`. (DeepSpeed asks for a launcher's environment even of a single rank.)

    Raises: ConfigError where the number of processes makes no sense.
    """
    argv = list(argv)
    processes = processes_wanted(argv)
    if (processes > 1 or setting("deepspeed", argv)) and not under_launcher(os.environ):
        command = launch_command(processes, argv)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(command[0], command, launch_environment(processes, os.environ))
    return argv


def under_launcher(environment: Mapping[str, str]) -> bool:
    """Whether a launcher has started this process as one rank of a group."""
    return "RANK" in environment and "WORLD_SIZE" in environment


def launched_ranks() -> int:
    """The number of ranks as the launcher says it; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def processes_wanted(argv: Sequence[str]) -> int:
    """The number of processes that the command line, or else the YAML file, asks for; 1 by default."""
    wanted = setting(FLAG, argv)
    try:
        processes = 1 if wanted is None else number(FLAG, wanted)
    except ConfigError:
        processes = 0
    if processes < 1:
        raise ConfigError(f"{FLAG} must be a whole number of processes from 1, got {wanted!r}")
    return processes


def launch_command(processes: int, argv: Sequence[str], module: str = TRAINING) -> list[str]:
    """The command that runs `module` on `processes` ranks of this machine, on a free port."""
    agent = [sys.executable, "-m", "cambrian_gaze.training.launch.agent"]
    return [*agent, "--standalone", "--nproc_per_node", str(processes), "-m", module, *argv]


def launch_environment(processes: int, environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with the cores shared out: without it every rank would start a thread per core."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    return {"OMP_NUM_THREADS": str(threads), **own_modules(environment)}
