"""`cambrian-gaze export`: a saved model as a dense model of transformers, or in other numbers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cambrian_gaze.cli.arguments import add_model
from cambrian_gaze.cli.plugins import add_plugin, load_given
from cambrian_gaze.models.export import FORMATS, export


def build_parser() -> argparse.ArgumentParser:
    width = max(map(len, FORMATS))
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze export",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="\n".join(
            ["Write a saved model in another form:", *(f"  {name:<{width}}  {what}" for name, what in FORMATS.items())]
        ),
    )
    add_model(parser, adapter=False)
    parser.add_argument("--format", required=True, choices=FORMATS, metavar="FORMAT", help="one of the above")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    add_plugin(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the folder and print its size. Returns the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        load_given(arguments)
        folder = export(arguments.format, arguments.model, arguments.out)
    except (ImportError, OSError, ValueError) as error:
        print(f"cambrian-gaze export: {error}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    print(f"{folder}: {FORMATS[arguments.format]}; {size / 1e6:,.1f} MB of weights")
    return 0
