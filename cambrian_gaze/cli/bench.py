"""`cambrian-gaze bench`: measure attention, decoding, data or training steps, and write what was measured.

A bench is a module with `add_arguments(parser)`, `run(args)` → rows (`attention/measure.py`), `COLUMNS`, `SECTION` and
`QUICK`. The one that is asked for is imported, no other.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from cambrian_gaze.cli.arguments import table_parser

BENCHES = {
    "attention": ("cambrian_gaze.attention.bench_attention", "one layer of a training sample, every backend"),
    "decode": ("cambrian_gaze.attention.bench_decode", "one decoding step of one layer"),
    "prefill": ("cambrian_gaze.models.bench_prefill", "one layer's prefill of a long video, and how it grows"),
    "data": ("cambrian_gaze.data.bench", "the row index, records, pictures and videos per worker, padding"),
    "train-step": ("cambrian_gaze.training.bench", "a whole training step of a preset, with random weights"),
}
"""Name → module and summary."""


def build_parser(name: str, bench: ModuleType) -> argparse.ArgumentParser:
    """The bench's own options, and those that all share."""
    parser = argparse.ArgumentParser(
        prog=f"cambrian-gaze bench {name}",
        allow_abbrev=False,
        description=f"Measure {BENCHES[name][1]}: medians after a warm-up, all arms in one run, on random data.",
    )
    bench.add_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="few and small cases, for a look")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument(
        "--page", metavar="FILE", help="put the tables in the place of those in FILE, such as docs/benchmarks.md"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one bench. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = table_parser("cambrian-gaze bench", "Measure one of:", BENCHES).parse_args(arguments[:1]).name
    bench = importlib.import_module(BENCHES[name][0])
    parser = build_parser(name, bench)
    if "--quick" in arguments:
        parser.set_defaults(**bench.QUICK)
    options = parser.parse_args(arguments[1:])
    try:
        rows = bench.run(options)
        report(rows, bench, options.json, options.page)
    except ValueError as error:
        parser.error(str(error))
    return 0


def report(rows: list[dict[str, Any]], bench: ModuleType, json_file: str | None, page: str | None) -> None:
    """Print a table per device; write the rows and the page where asked to. A bench with several tables names the
    section in its rows."""
    from cambrian_gaze.attention import measure

    if json_file is not None:
        measure.write_json(json_file, rows)
    for device in dict.fromkeys(str(row["device"]).partition(":")[0] for row in rows):
        mine = [row for row in rows if str(row["device"]).partition(":")[0] == device]
        measured = any(row["median_us"] is not None for row in mine)
        text = measure.markdown_table(mine, bench.COLUMNS)
        if measured:
            text = f"{measure.machine_line(measure.describe_machine(device))}\n\n{text}"
        section = f"{mine[0].get('section', bench.SECTION)} {device}"
        print(f"\n{section}\n\n{text}", flush=True)
        if page is None:
            continue
        if not measured and measure.read_section(page, section):
            print(f"\n{page}: {section!r} stays as it is, nothing was measured", file=sys.stderr)
        else:
            measure.update_page(page, section, text)
