"""`cambrian-gaze checkpoint export`: the model in a checkpoint, without what only resuming needs."""

from __future__ import annotations

import argparse


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze checkpoint export",
        description="Copy the model of a checkpoint into a folder of its own, in Hugging Face's format: safetensors, "
        "configuration, processor and lineage (and the projector, where stage 1 wrote it). The SHA-256 of every file "
        "is compared first.",
    )
    parser.add_argument("folder", metavar="CHECKPOINT", help="a checkpoint-N, or output_dir: its last whole one")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    return parser


def run(arguments: argparse.Namespace) -> str:
    """What was written. Raises ValueError where the checkpoint is damaged or `--out` is there."""
    from cambrian_gaze.training.checkpoint.checkpoint import export_model

    folder, names = export_model(arguments.folder, arguments.out)
    size = sum((folder / name).stat().st_size for name in names)
    return f"{folder}: {len(names)} files, {size / 1e6:,.1f} MB, from {arguments.folder}"
