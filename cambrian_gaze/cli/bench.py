"""`cambrian-gaze bench`: measure attention, decoding, data or training steps, write what was measured, make its pages.

The benches are listed in `cambrian_gaze/bench/registry.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from cambrian_gaze.bench import registry
from cambrian_gaze.cli.arguments import table_parser
from cambrian_gaze.cli.plugins import add_plugin, load_given
from cambrian_gaze.machine import machine_line

if TYPE_CHECKING:
    from cambrian_gaze.bench.results import Run

REDRAW = "page"
ACTIONS = {
    **registry.BENCHES,
    REDRAW: ("cambrian_gaze.bench.pages.page", "no measuring: pages and pictures made anew of the results there are"),
}
"""Name → module and summary."""


def build_parser(name: str, bench: ModuleType) -> argparse.ArgumentParser:
    """The bench's own options, and those that all share."""
    parser = argparse.ArgumentParser(
        prog=f"cambrian-gaze bench {name}",
        allow_abbrev=False,
        description=f"Measure {ACTIONS[name][1]}: medians after a warm-up, all arms in one run, on random data.",
    )
    bench.add_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="few and small cases, for a look")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, with machine, versions and command")
    parser.add_argument(
        "--page",
        metavar="FILE",
        help="a page such as docs/benchmarks.md: results go to the folder of its name in the place of earlier ones of "
        "the same kind, and findings, pictures and tables are made anew",
    )
    add_plugin(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one bench, or make the pages anew. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = table_parser("cambrian-gaze bench", "Measure one of:", ACTIONS).parse_args(arguments[:1]).name
    if name == REDRAW:
        return redraw(arguments[1:])
    bench = registry.load(name)
    parser = build_parser(name, bench)
    if "--quick" in arguments:
        parser.set_defaults(**bench.QUICK)
    options = parser.parse_args(arguments[1:])
    from cambrian_gaze.bench import results
    from cambrian_gaze.bench.pages import page

    try:
        if options.page is not None:
            page.check(options.page)  # before, not after, an hour of measuring
        load_given(options)
        runs = results.as_runs(bench.run(options), bench.SECTION, ["bench", name, *measuring(arguments[1:])])
        report(runs, bench)
        if options.json is not None:
            results.write(options.json, name, runs)
        if options.page is not None:
            page.record(options.page, name, runs)
    except ValueError as error:
        parser.error(str(error))
    return 0


def measuring(arguments: Sequence[str]) -> list[str]:
    """The arguments without those that say where results go."""
    where = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--json", "--page"):
        where.add_argument(option)
    return where.parse_known_args(list(arguments))[1]


def report(runs: Sequence[Run], bench: ModuleType) -> None:
    """Print a table per run."""
    from cambrian_gaze import measure

    for run in runs:
        table = measure.markdown_table(run.rows, bench.COLUMNS)
        machine = [machine_line(run.machine)] if run.machine else []
        print("\n" + "\n\n".join([f"{run.section} {run.device}", *machine, table]), flush=True)


def redraw(arguments: Sequence[str]) -> int:
    """`cambrian-gaze bench page`."""
    from cambrian_gaze.bench.pages import page

    parser = argparse.ArgumentParser(
        prog=f"cambrian-gaze bench {REDRAW}",
        allow_abbrev=False,
        description="Make findings, pictures and tables anew of the JSON files in the folder of the page's name.",
    )
    parser.add_argument("--page", metavar="FILE", default=page.PAGE, help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        changed = page.refresh(options.page)
    except ValueError as error:
        parser.error(str(error))
    print("\n".join(map(str, changed)) or "nothing changed")
    return 0
