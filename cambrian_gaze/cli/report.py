"""`cambrian-gaze report`: one HTML page about a training run, finished or not."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze report",
        description="Write one HTML page about a training run, at any time: curves, samples, faults, settings.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the run's output_dir")
    parser.add_argument("--output", metavar="FILE", help="default: RUN_DIR/summary.html")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page. Returns the exit status."""
    arguments = build_parser().parse_args(argv)
    from cambrian_gaze.training.metrics.summary import write_summary

    try:
        print(write_summary(arguments.run_dir, arguments.output))
    except (OSError, ValueError) as error:
        print(f"cambrian-gaze report: {error}", file=sys.stderr)
        return 1
    return 0
