"""`cambrian-gaze data index`: build the row index of recipes and data files before a run needs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze data index",
        description="Build the index through which rows are read, and say how many there are. Runs do the same where "
        "the index is missing or the file has changed.",
    )
    parser.add_argument("paths", nargs="+", metavar="FILE|RECIPE", help="JSON, JSONL or a recipe (YAML)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Index every file and print a line for each. Returns the exit status."""
    arguments = build_parser().parse_args(argv)
    from cambrian_gaze.data.mixture import recipe_of

    try:
        for source in recipe_of(arguments.paths).sources:
            print(f"{source.path}: {len(source.records()):,} rows", flush=True)
    except (OSError, ValueError) as error:
        print(f"cambrian-gaze data index: {error}", file=sys.stderr)
        return 1
    return 0
