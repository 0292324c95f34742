"""`cambrian-gaze gaze view`: a trace as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze gaze view",
        description="Write a page that shows a trace: picture and answer side by side, word by word, by layer and "
        "head. One file that needs no network and no model.",
    )
    parser.add_argument("trace", metavar="TRACE", help="a file of `generate --trace_file`")
    parser.add_argument("-o", "--output", metavar="FILE.html", help="default: the trace's name with .html")
    return parser


def run(arguments: argparse.Namespace) -> str:
    """Writes the page and returns its path. Raises ValueError where the trace cannot be read."""
    from cambrian_gaze.viz.trace import Trace
    from cambrian_gaze.viz.viewer import write_viewer

    target = Path(arguments.output or Path(arguments.trace).with_suffix(".html"))
    if target.resolve() == Path(arguments.trace).resolve():
        raise ValueError(f"--output {target} is the trace itself")
    return str(write_viewer(target, Trace.load(arguments.trace)))
