"""`cambrian-gaze gaze render`: pictures of a trace for papers."""

from __future__ import annotations

import argparse

from cambrian_gaze.cli.arguments import positive


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze gaze render",
        description="Draw a trace for a paper: the picture in its own shape and resolution, and the regions that were "
        "chosen, washed by the share of heads; the most chosen has a red outline.",
    )
    parser.add_argument(
        "trace", metavar="TRACE", nargs="+",
        help="a file of `generate --trace_file`; several stand below each other (PNG or PDF)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help=".png, .svg, .pdf (of pixels), .gif or .mp4"
    )
    parser.add_argument(
        "--by",
        choices=("token", "layer", "head", "layer_head", "frame"),
        default="token",
        help="what the panels are: a token each (default); a row for each token with a column for each layer, head, or "
        "picture or frame; layers by heads of one token",
    )
    for name, what in (
        ("tokens", "places in the answer, from 0; default: all that a reader sees"),
        ("layers", "count these layers alone; default: all"),
        ("heads", "count these heads alone; default: all"),
        ("frames", "pictures and frames, numbered from 0 over all; default: all"),
    ):
        parser.add_argument(f"--{name}", type=int, nargs="+", metavar="N", help=what)
    parser.add_argument("--columns", type=positive, default=6, metavar="N", help="tokens to a row; default: 6")
    parser.add_argument(
        "--side",
        type=positive,
        metavar="PIXELS",
        help="longer side of a panel; default: 240, a single one in the picture's own resolution",
    )
    parser.add_argument("--top", type=positive, default=1, metavar="N", help="most chosen regions outlined; default: 1")
    parser.add_argument(
        "--heat",
        action="store_true",
        help="draw attention weights on the visual tokens instead of shares of heads: the mean over heads and layers, "
        "all panels on one scale; with --by token, layer or frame",
    )
    return parser


def run(arguments: argparse.Namespace) -> str:
    """Writes the picture and returns its path. Raises ValueError for what the trace does not have."""
    from cambrian_gaze.viz.figure import figure
    from cambrian_gaze.viz.panes import pane_names
    from cambrian_gaze.viz.render import render_rows, write_figure, write_still
    from cambrian_gaze.viz.trace import Trace

    traces = [Trace.load(path) for path in arguments.trace]
    picked = {name: getattr(arguments, name) for name in ("tokens", "layers", "heads", "frames", "columns", "heat")}
    plans = [figure(trace, arguments.by, **picked) for trace in traces]
    shape = {"side": arguments.side, "top": arguments.top}
    if len(traces) == 1:
        return str(write_figure(arguments.output, traces[0], plans[0], **shape))
    named = list(zip(pane_names(arguments.trace), traces, strict=True))
    return str(write_still(arguments.output, render_rows(named, plans, **shape)))
