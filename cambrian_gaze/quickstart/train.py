"""Starts the quickstart's training runs: the same entry, launcher and YAML files that any training run uses."""

from __future__ import annotations

import codecs
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.quickstart.plan import QuickstartPlan

CONSOLE = "console.log"
PROCESSES = {"cpu": 2, "cuda": 1}
"""Ranks of a training run by device."""


class TrainingFailed(RuntimeError):
    """A training run ended with an error; the message holds the end of its output."""


def train(plan: QuickstartPlan, run: str, output: Path, device: str) -> dict[str, Any]:
    """Run `stage1`, `dense` or `gaze` in a process of its own, with its output on the console and in `console.log`.

    Returns: optimizer steps and the last loss logged.

    Raises: TrainingFailed with the end of the run's output.
    """
    from cambrian_gaze.training.launch.ranks import launch_command, launch_environment

    processes = PROCESSES[device]
    command = launch_command(processes, flags(plan, run, output, device))
    return run_training(command, launch_environment(processes, os.environ), output / run)


def run_training(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Run the command of a training run that writes to `folder`; otherwise as `train`."""
    from cambrian_gaze.training.metrics.log import read_log

    folder.mkdir(parents=True, exist_ok=True)
    _stream(command, {"PYTHONWARNINGS": "ignore::FutureWarning", **environment}, folder)
    lines = read_log(folder)
    return {"steps": lines[-1]["step"], "loss": lines[-1]["loss"]} if lines else {}


def flags(plan: QuickstartPlan, run: str, output: Path, device: str) -> list[str]:
    """The command line of a training run after `cambrian-gaze train`."""
    values: dict[str, Any] = {
        "use_cpu": device == "cpu",
        "gradient_accumulation_steps": max(PROCESSES.values()) // PROCESSES[device],
        "output_dir": output / run,
        "data_path": output / "data" / "train.jsonl",
        "image_folder": output / "data" / "images",
        "vision_tower": output / "tower",
        "seed": plan.seed,
    }
    if run != "stage1":
        values["model_name_or_path"] = output / "stage1"
    values.update(plan.overrides.get(run, {}))
    return [str(plan.config(run)), *(token for name, value in values.items() for token in (f"--{name}", str(value)))]


def _stream(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
    """Run a command; what it prints appears at once and is kept in `console.log`."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    tail = ""
    with open(folder / CONSOLE, "ab") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**environment, "PYTHONUNBUFFERED": "1"}
        )
        try:
            while chunk := process.stdout.read1(65536):
                log.write(chunk)
                text = decode(chunk)
                sys.stderr.write(text)
                sys.stderr.flush()
                tail = (tail + text)[-4000:]
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code != 0:
        lines = tail.replace("\r", "\n").splitlines()[-15:]
        raise TrainingFailed(
            f"training failed with exit code {code}; the whole output is in {folder / CONSOLE}. Its end:\n"
            + "\n".join(lines)
        )
