"""`cambrian-gaze study`: comparisons on GazeBench over seeds, and the page that is made of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cambrian_gaze.cli.arguments import table_parser
from cambrian_gaze.cli.plugins import add_plugin, load_given
from cambrian_gaze.plugins import loaded_plugins

if TYPE_CHECKING:
    from cambrian_gaze.studies.study import Size

ACTIONS = {
    "run": ("", "train, answer and store the raw results of a study; goes on where it was stopped"),
    "report": ("", "draw the page and its figures of the raw results there are"),
    "ls": ("", "the studies there are, and what has been run"),
}
"""Name → (unused) and summary."""
PAGE = Path("docs", "proof.md")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one action. Returns the exit status: 1 for what failed, 130 for an interruption."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = table_parser("cambrian-gaze study", "Studies on GazeBench:", ACTIONS).parse_args(arguments[:1]).name
    parser = argparse.ArgumentParser(
        prog=f"cambrian-gaze study {name}", allow_abbrev=False, description=ACTIONS[name][1].capitalize() + "."
    )
    return {"run": _run, "report": _report, "ls": _list}[name](parser, arguments[1:])


def _run(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    parser.add_argument("study", metavar="STUDY", help="a name of `study ls`, or a YAML file")
    parser.add_argument("--size", default="cpu", metavar="SIZE", help="smoke, cpu (default) or gpu")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="instead of the size's own")
    parser.add_argument("--output_dir", type=Path, metavar="FOLDER", help="default: runs/studies")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: docs/proof; smoke: below output_dir")
    add_plugin(parser)
    options = parser.parse_args(arguments)
    try:
        load_given(options)
    except ValueError as error:
        print(f"cambrian-gaze study: {error}", file=sys.stderr)
        return 1
    from cambrian_gaze.quickstart.train import TrainingFailed
    from cambrian_gaze.studies.run import RESULTS, RUNS, run_study
    from cambrian_gaze.studies.study import read_size, read_study

    runs = options.output_dir or RUNS
    results = options.results or (runs if options.size == "smoke" else RESULTS)
    try:
        size = read_size(options.size)
        if options.plugin:
            size, runs = _with_plugins(size, runs, options.plugin)
        path = run_study(read_study(options.study), size, runs, results, options.seeds)
    except (ImportError, OSError, ValueError, TrainingFailed) as error:
        print(f"cambrian-gaze study: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command continues here", file=sys.stderr)
        return 130
    from cambrian_gaze.studies.page import table
    from cambrian_gaze.studies.results import read_results

    print(f"\n{table(read_results(path))}\n{path}")
    return 0


def _with_plugins(size: Size, runs: Path, paths: Sequence[str]) -> tuple[Size, Path]:
    """The size whose trainings load the plugins, and a folder of their own below `runs`: what was made with other
    plugins, or another content of these, is not taken for it."""
    import dataclasses

    from cambrian_gaze.studies.study import identity

    own = runs / f"plugins-{identity(*(plugin.sha256 for plugin in loaded_plugins()))}"
    training = {**size.training, "plugin": [str(Path(path).resolve()) for path in paths]}
    return dataclasses.replace(size, training=training), own


def _report(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="default: %(default)s")
    options = parser.parse_args(arguments)
    from cambrian_gaze.studies.page import draw_page

    try:
        changed = draw_page(options.page)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print("\n".join(map(str, changed)) or "nothing changed")
    return 0


def _list(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: docs/proof")
    options = parser.parse_args(arguments)
    from cambrian_gaze.studies.results import read_results
    from cambrian_gaze.studies.run import RESULTS
    from cambrian_gaze.studies.study import known_studies, read_study

    folder = options.results or RESULTS
    for name in known_studies():
        study = read_study(name)
        done = [read_results(path) for path in sorted(folder.glob(f"{name}-*.json"))]
        sizes = ", ".join(f"{one['size']}: {len(one['seeds'])} seeds" for one in done if one["study"] == name)
        print(f"{name:22s} {study.title}  ({sizes or 'not run'})")
    return 0
