"""`cambrian-gaze merge`: a LoRA adapter added into the weights of its model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cambrian_gaze.cli.plugins import add_plugin, load_given


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze merge",
        description="Add the adapter of a run with lora_enable into the weights of the model that it was trained on: a "
        "model folder like any other, with nothing of peft in it.",
    )
    parser.add_argument("--model", required=True, metavar="BASE", help="the model that the adapter was trained on")
    parser.add_argument("--adapter", required=True, metavar="DIR", help="folder of the run, or one of its checkpoints")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    add_plugin(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the merged model. Returns the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        load_given(arguments)

        from cambrian_gaze.models.adapters import merge_adapter

        folder = merge_adapter(arguments.model, arguments.adapter, arguments.out)
    except (ImportError, OSError, ValueError) as error:
        print(f"cambrian-gaze merge: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: {arguments.model} with {arguments.adapter} merged in")
    return 0
