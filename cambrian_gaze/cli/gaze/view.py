"""`cambrian-gaze gaze view`: a trace as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze gaze view",
        description="Write a page that shows a trace: picture and answer side by side, word by word, by layer and "
        "head. One file that needs no network and no model. Several traces stand beside each other, and go together.",
    )
    parser.add_argument("trace", metavar="TRACE", nargs="+", help="files of `generate --trace_file`")
    parser.add_argument("-o", "--output", metavar="FILE.html", help="default: the first trace's name with .html")
    return parser


def run(arguments: argparse.Namespace) -> str:
    """Writes the page and returns its path. Raises ValueError where the trace cannot be read."""
    from cambrian_gaze.viz.panes import pane_names, write_panes
    from cambrian_gaze.viz.trace import Trace
    from cambrian_gaze.viz.viewer import write_viewer

    target = Path(arguments.output or Path(arguments.trace[0]).with_suffix(".html"))
    if target.resolve() in [Path(path).resolve() for path in arguments.trace]:
        raise ValueError(f"--output {target} is the trace itself")
    traces = [Trace.load(path) for path in arguments.trace]
    if len(traces) == 1:
        return str(write_viewer(target, traces[0]))
    return str(write_panes(target, list(zip(pane_names(arguments.trace), traces, strict=True))))
