"""`cambrian-gaze data`: a table of subcommands about data, of which only the chosen one is imported."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

SUBCOMMANDS = {
    "index": ("cambrian_gaze.cli.data_index", "build the row index of recipes and files before a run needs it"),
    "check": ("cambrian_gaze.cli.data_check", "read every record and its media; say what a run could not use"),
    "stats": ("cambrian_gaze.cli.data_stats", "plot lengths, sizes and shapes"),
    "preview": ("cambrian_gaze.cli.data_preview", "a page of samples as the model sees them"),
}
"""Name → module with `main(argv)`, and summary."""


def overview() -> argparse.ArgumentParser:
    """The parser of `cambrian-gaze data` itself."""
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in SUBCOMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze data",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="\n".join(["One of:", *lines, "", "'cambrian-gaze data NAME --help' shows the options."]),
    )
    parser.add_argument("name", choices=SUBCOMMANDS, metavar="NAME", help="what to do")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = overview().parse_args(arguments[:1]).name
    return importlib.import_module(SUBCOMMANDS[name][0]).main(arguments[1:])
