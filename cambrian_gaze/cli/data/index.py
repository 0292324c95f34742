"""`cambrian-gaze data index`: build the row index of recipes and data files before a run needs it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze data index",
        description="Build the index through which rows are read, and say how many there are. Runs do the same where "
        "the index is missing or the file has changed.",
    )
    parser.add_argument("paths", nargs="+", metavar="FILE|RECIPE", help="JSON, JSONL or a recipe (YAML)")
    parser.add_argument("--rebuild", action="store_true", help="build it even where there is one that fits")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Index every file and print a line for each. Returns the exit status."""
    arguments = build_parser().parse_args(argv)
    from cambrian_gaze.data.mixture.recipe import recipe_of

    try:
        sources = recipe_of(arguments.paths).sources
        missing = [f"{source.origin}: {source.path}" for source in sources if source.is_missing()]
        if missing:
            raise ValueError("\n  ".join(["missing; download them, or correct the path or `root`:", *missing]))
        for path in dict.fromkeys(source.path for source in sources):
            print(index_file(path, arguments.rebuild), flush=True)
    except (OSError, ValueError) as error:
        print(f"cambrian-gaze data index: {error}", file=sys.stderr)
        return 1
    return 0


def index_file(path: str, rebuild: bool) -> str:
    """Index one file; one line that says what there is."""
    from cambrian_gaze.data.records.index import open_index
    from cambrian_gaze.data.records.records import Records
    from cambrian_gaze.data.records.scan import DamagedArrayError
    from cambrian_gaze.data.records.tables import is_table

    if is_table(path):
        return f"{path}: a table, which has an index of its own"
    began = time.perf_counter()
    try:
        index = open_index(path, rebuild=rebuild, store=True)
    except DamagedArrayError as error:
        raise ValueError(f"{path} is not a valid JSON array: {error}; repair or re-download it") from error
    seconds = time.perf_counter() - began
    rows = len(Records(path, index))
    rate = f"{index.identity.size / 1e6:,.1f} MB in {seconds:.2f} s, {index.identity.size / 1e6 / seconds:,.0f} MB/s"
    how = f"indexed {rate}" if index.built else "the index fits"
    return f"{path}: {rows:,} rows; {how}; {index.stored}"
