"""`cambrian-gaze gazebench`: make the benchmark, or a page of samples of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cambrian_gaze.cli.arguments import table_parser
from cambrian_gaze.gazebench.spec import FAMILIES, GazeBenchSpec

ACTIONS = {
    "make": ("", "write training records and questions of every family below a data root"),
    "show": ("", "one HTML page of samples: pictures, answers, and where each word is read from"),
}
"""Name → (unused) and summary."""
PAIRS = ("grid", "regions")
NUMBERS = ("glyph", "hops", "reads", "length", "asked", "frames", "questions", "train", "validation", "test", "seed")
KNOBS = {
    "grid": "rows and columns of cells",
    "regions": "rows and columns of the regions in which the places of the answers are given",
    "glyph": "side of a glyph in pixels; a cell has twice as many",
    "hops": "cells that a hop or video question goes through",
    "reads": "cells that a read question asks for",
    "length": "digits of a string",
    "asked": "digits that a count or absent question names",
    "frames": "frames of a video or stream",
    "questions": "questions that a stream is asked",
    "train": "training records, all families together",
    "validation": "questions per family",
    "test": "questions per family",
    "seed": "of everything that is drawn",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one action. Returns the exit status: 1 where something cannot be read or written."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = table_parser("cambrian-gaze gazebench", "A benchmark of rendered pages:", ACTIONS).parse_args(
        arguments[:1]
    ).name  # fmt: skip
    options = build_parser(name).parse_args(arguments[1:])
    try:
        print((_make if name == "make" else _show)(options))
    except (OSError, ValueError) as error:
        print(f"cambrian-gaze gazebench {name}: {error}", file=sys.stderr)
        return 1
    return 0


def build_parser(name: str) -> argparse.ArgumentParser:
    """The options of an action."""
    parser = argparse.ArgumentParser(
        prog=f"cambrian-gaze gazebench {name}", allow_abbrev=False, description=ACTIONS[name][1].capitalize() + "."
    )
    if name == "show":
        parser.add_argument("--data_root", required=True, type=Path, metavar="ROOT", help="where `make` wrote")
        parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the page, such as samples.html")
        parser.add_argument("--split", default="test", choices=("validation", "test"), help="default: test")
        parser.add_argument("--count", type=int, default=2, metavar="N", help="samples per family; default: 2")
        return parser
    parser.add_argument(
        "--data_root", required=True, type=Path, metavar="ROOT", help="writes ROOT/cambrian-gaze/gazebench"
    )
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="default: all")
    standard = GazeBenchSpec()
    for knob, told in KNOBS.items():
        value = getattr(standard, knob)
        if knob in PAIRS:
            shown = f"{value[0]} {value[1]}"
            parser.add_argument(
                f"--{knob}", type=int, nargs=2, default=value, metavar=("ROWS", "COLUMNS"),
                help=f"{told}; default: {shown}",
            )  # fmt: skip
        else:
            parser.add_argument(f"--{knob}", type=int, default=value, metavar="N", help=f"{told}; default: {value}")
    parser.add_argument("--straddle", action="store_true", help="shift the cells by half, so that regions cut them")
    parser.add_argument("--question", choices=("after", "before"), default="after", help="the picture; default: after")
    parser.add_argument(
        "--wording", choices=("full", "terse"), default="full",
        help="full: questions explain themselves; terse: for models that were trained on them; default: full",
    )  # fmt: skip
    return parser


def _make(options: argparse.Namespace) -> str:
    from cambrian_gaze.gazebench.make import DATASET, make

    values = {name: value for name, value in vars(options).items() if name != "data_root"}
    folder = options.data_root / DATASET
    folder.parent.mkdir(parents=True, exist_ok=True)
    written = make(folder, GazeBenchSpec.from_dict(values))
    return f"{folder}: {'written' if written else 'there already'}"


def _show(options: argparse.Namespace) -> str:
    from cambrian_gaze.files import write_text
    from cambrian_gaze.gazebench.make import DATASET
    from cambrian_gaze.gazebench.samples import read_samples
    from cambrian_gaze.viz.gazebench import samples_page

    samples = read_samples(options.data_root / DATASET, options.split, options.count)
    return str(write_text(options.output, samples_page(samples)))
