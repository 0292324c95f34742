"""`cambrian-gaze checkpoint ls`: a table of a run's checkpoints."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze checkpoint ls",
        description="List the checkpoints in a run's output folder. Sizes are compared; `verify` reads the files.",
    )
    parser.add_argument("folder", metavar="DIR", help="output_dir of a run")
    return parser


def run(arguments: argparse.Namespace) -> str:
    """The table. Raises ValueError where there are no checkpoints."""
    from cambrian_gaze.training.checkpoint.checkpoint import checkpoint_steps

    steps = checkpoint_steps(arguments.folder)
    if not steps:
        raise ValueError(f"{arguments.folder} holds no checkpoint-N")
    lines = [f"{'step':>8}  {'size':>10}  {'loss':>8}  {'written':<16}  {'ranks':<14}  state"]
    return "\n".join(lines + [_line(step, path) for step, path in steps])


def _line(step: int, path: Path) -> str:
    from cambrian_gaze.training.checkpoint.checkpoint import damage, incomplete_because, read_marker

    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    reason = incomplete_because(path)
    marker = {} if damage(path) else read_marker(path)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(marker["time"])) if "time" in marker else "-"
    loss = _last_loss(path)
    shown = "-" if loss is None else f"{loss:.4f}"
    return f"{step:>8}  {size / 1e6:>7,.1f} MB  {shown:>8}  {when:<16}  {_ranks(marker):<14}  {reason or 'whole'}"


def _ranks(marker: dict[str, Any]) -> str:
    if "world_size" not in marker:
        return "-"
    stage = marker.get("zero_stage")
    return f"{marker['world_size']}" + ("" if stage is None else f", ZeRO {stage}")


def _last_loss(path: Path) -> float | None:
    """The last training loss that the checkpoint's history holds."""
    from cambrian_gaze.training.checkpoint.states import TRAINER_STATE, StateError, number, read_json

    try:
        history = read_json(path / TRAINER_STATE).get("log_history")
    except (StateError, AttributeError):
        return None
    losses = [entry.get("loss") for entry in history or () if isinstance(entry, dict)]
    return next((loss for loss in reversed(losses) if number(loss)), None)
