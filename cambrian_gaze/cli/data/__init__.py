"""`cambrian-gaze data`: a table of subcommands about data, of which only the chosen one is imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from cambrian_gaze.cli.arguments import table_parser

SUBCOMMANDS = {
    "index": ("cambrian_gaze.cli.data.index", "build the row index of recipes and files before a run needs it"),
    "check": ("cambrian_gaze.cli.data.check", "read every record and its media; say what a run could not use"),
    "stats": ("cambrian_gaze.cli.data.stats", "plot lengths, sizes and shapes"),
    "preview": ("cambrian_gaze.cli.data.preview", "a page of samples as the model sees them"),
}
"""Name → module with `main(argv)`, and summary."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = table_parser("cambrian-gaze data", "One of:", SUBCOMMANDS).parse_args(arguments[:1]).name
    return importlib.import_module(SUBCOMMANDS[name][0]).main(arguments[1:])
