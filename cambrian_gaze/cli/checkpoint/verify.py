"""`cambrian-gaze checkpoint verify`: whether checkpoints are what was written."""

from __future__ import annotations

import argparse
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze checkpoint verify",
        description="Read checkpoints and compare the size and SHA-256 of every file with complete.json. "
        "The status is 1 where one differs.",
    )
    parser.add_argument("folder", metavar="DIR", help="a checkpoint, or output_dir of a run: all of its checkpoints")
    return parser


def run(arguments: argparse.Namespace) -> str:
    """A line per checkpoint. Raises ValueError where one is damaged, with all lines."""
    from tqdm import tqdm

    from cambrian_gaze.training.checkpoint.checkpoint import MARKER, checkpoint_steps, damage

    folder = Path(arguments.folder)
    found = [path for _, path in checkpoint_steps(folder)]
    if not found or (folder / MARKER).exists():
        found = [folder]
    reasons = [damage(path, hashes=True) for path in tqdm(found, desc="reading", unit="checkpoint", disable=None)]
    text = "\n".join(f"{path}: {reason or 'whole'}" for path, reason in zip(found, reasons, strict=True))
    if any(reasons):
        raise ValueError(f"{sum(map(bool, reasons))} of {len(found)} are damaged\n{text}")
    return text
