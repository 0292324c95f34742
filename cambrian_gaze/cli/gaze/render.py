"""`cambrian-gaze gaze render`: pictures of a trace for papers."""

from __future__ import annotations

import argparse

from cambrian_gaze.cli.arguments import positive

TAKES = {
    None: ("by", "tokens", "layers", "heads", "frames", "columns", "heat"),
    "attention": ("words", "tokens", "layers", "scale"),
    "eviction": ("words", "tokens", "layers", "columns", "truth"),
    "video": ("words", "tokens", "layers", "frames", "columns", "video_fps"),
}
"""Figure → the options that it has beside those of all; None: panels of `--by`."""
NAMES = {"columns": "most", "video_fps": "fps"}
"""Option → what the figure's function calls it."""


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
        "-o", "--output", required=True, metavar="FILE",
        help=".png, .svg, .pdf (of pixels), and without --figure .gif or .mp4",
    )  # fmt: skip
    parser.add_argument(
        "--figure",
        choices=[name for name in TAKES if name],
        help="the paper's figure 3 (attention: a dense trace and one of gaze, with attention weights), 4 (eviction: "
        "one of gaze and one or more of policies that evict) or 5 (video: one of gaze); the traces in any order",
    )
    parser.add_argument(
        "--by",
        choices=("token", "layer", "head", "layer_head", "frame"),
        help="what the panels are: a token each (default); a row for each token with a column for each layer, head, or "
        "picture or frame; layers by heads of one token",
    )
    for name, what in (
        ("tokens", "places in the answer, from 0; default: all that a reader sees, in a --figure the first few words"),
        ("layers", "count these layers alone; default: all"),
        ("heads", "count these heads alone; default: all"),
        ("frames", "pictures and frames, numbered from 0 over all; default: all, in --figure video the most looked at"),
    ):
        parser.add_argument(f"--{name}", type=int, nargs="+", metavar="N", help=what)
    parser.add_argument("--words", nargs="+", metavar="WORD", help="words of the answer, for --figure")
    parser.add_argument("--truth", metavar="TEXT", help="--figure eviction: marks words of the answers that differ")
    parser.add_argument(
        "--scale", choices=("own", "common"),
        help="--figure attention: each picture's largest weight has the full colour (own, default), or the largest of "
        "all (common)",
    )  # fmt: skip
    parser.add_argument(
        "--video_fps", type=float, metavar="N",
        help="--figure video: frames that were taken a second, to tell frames by their time; a trace does not hold it",
    )  # fmt: skip
    parser.add_argument(
        "--columns", type=positive, metavar="N",
        help="tokens to a row, default 6; in a --figure at most so many words or frames, default 4",
    )  # fmt: skip
    parser.add_argument(
        "--side",
        type=positive,
        metavar="PIXELS",
        help="longer side of a panel; default: 240, a single one and those of a --figure in the picture's own "
        "resolution",
    )
    parser.add_argument(
        "--top", type=positive, metavar="N", help="most chosen regions outlined; default: 1, in --figure video 3"
    )
    parser.add_argument(
        "--heat",
        action="store_true",
        default=None,
        help="draw attention weights on the visual tokens instead of shares of heads: the mean over heads and layers, "
        "all panels on one scale; with --by token, layer or frame",
    )
    return parser


def run(arguments: argparse.Namespace) -> str:
    """Writes the picture and returns its path. Raises ValueError for what the traces do not have, and for options of
    another figure."""
    given = _given(arguments)
    if arguments.top is not None:
        given["top"] = arguments.top
    if arguments.figure:
        return _sheet(arguments, {NAMES.get(name, name): value for name, value in given.items()})
    from cambrian_gaze.viz.figure import figure
    from cambrian_gaze.viz.panes import pane_names
    from cambrian_gaze.viz.render import render_rows, write_figure, write_still
    from cambrian_gaze.viz.trace import Trace

    traces = [Trace.load(path) for path in arguments.trace]
    shape = {"side": arguments.side, "top": given.pop("top", 1)}
    plans = [figure(trace, **given) for trace in traces]
    if len(traces) == 1:
        return str(write_figure(arguments.output, traces[0], plans[0], **shape))
    named = list(zip(pane_names(arguments.trace), traces, strict=True))
    return str(write_still(arguments.output, render_rows(named, plans, **shape)))


def _given(arguments: argparse.Namespace) -> dict[str, object]:
    """The options that were given. Raises ValueError where the figure does not have one."""
    known = dict.fromkeys(name for names in TAKES.values() for name in names)
    given = {name: getattr(arguments, name) for name in known if getattr(arguments, name) is not None}
    for name in given:
        if name not in TAKES[arguments.figure]:
            here = f"--figure {arguments.figure}" if arguments.figure else "a picture without --figure"
            has = ", ".join(f"--{other}" for other in TAKES[arguments.figure])
            raise ValueError(f"{here} has no --{name}; it has {has}, --top and --side")
    return given


def _sheet(arguments: argparse.Namespace, given: dict[str, object]) -> str:
    from cambrian_gaze.viz import figures
    from cambrian_gaze.viz.panes import pane_names
    from cambrian_gaze.viz.trace import Trace

    figures.check_suffix(arguments.output)
    make = {
        "attention": figures.attention_figure,
        "eviction": figures.eviction_figure,
        "video": figures.video_figure,
    }[arguments.figure]
    named = list(zip(pane_names(arguments.trace), map(Trace.load, arguments.trace), strict=True))
    return str(figures.write_sheet(arguments.output, make(named, **given), arguments.side))
