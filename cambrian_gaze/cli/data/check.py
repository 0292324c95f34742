"""`cambrian-gaze data check`: is a recipe ready to train on?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from cambrian_gaze.cli.arguments import sampling_from
from cambrian_gaze.cli.data.arguments import add_data, add_workers, processor_from, recipe_from

NAMES = {
    "malformed": "malformed rows",
    "placeholders": "placeholders that do not match",
    "empty_answer": "empty answers",
    "missing": "missing media",
    "undecodable": "media that cannot be read",
    "overlong": "over-long samples",
}
_BAR = 32


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze data check",
        description="Read every record and its media, and say what a run could not use. Exit status: 0 clean, 1 "
        "findings, 2 wrong usage.",
    )
    add_data(parser)
    parser.add_argument(
        "--media",
        choices=("exists", "header", "decode"),
        default="header",
        help="how closely media are looked at: is the file there, what does its header say, can it be decoded; "
        "default: header",
    )
    parser.add_argument("--quarantine", metavar="FILE", help="write the rows to leave out there, for train --exclude")
    parser.add_argument("--json", metavar="FILE", help="write the report there, for machines")
    add_workers(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Check and print a report. Returns the exit status."""
    arguments = build_parser().parse_args(argv)
    from cambrian_gaze.data.inspect.check import check, is_clean
    from cambrian_gaze.data.inspect.record import Inspector
    from cambrian_gaze.data.inspect.survey import WorkerDied
    from cambrian_gaze.files import write_text

    try:
        processor = processor_from(arguments)
        recipe = recipe_from(arguments, processor)
        limit = (arguments.max_length or 2048) if processor is not None else None
        options = {"max_length": limit, "image_position": arguments.image_position}
        inspector = Inspector(arguments.media, sampling_from(arguments), processor=processor, **options)
    except (OSError, ValueError) as error:
        print(f"cambrian-gaze data check: {error}", file=sys.stderr)
        return 2
    try:
        reports = check(recipe, inspector, arguments.workers, arguments.quarantine)
    except (OSError, WorkerDied) as error:
        print(f"cambrian-gaze data check: {error}", file=sys.stderr)
        return 2
    for report in reports:
        print("\n".join(describe(report)), end="\n\n")
    if processor is None:
        print("tokens were not counted and no sample was found over-long: give --model DIR or --preset NAME")
    clean = is_clean(reports)
    if arguments.json is not None:
        content = {
            "recipe": recipe.name,
            "media": arguments.media,
            "max_length": limit,
            "clean": clean,
            "sources": [report.to_dict() for report in reports],
        }
        write_text(arguments.json, json.dumps(content, indent=2) + "\n")
    rows, bad = (sum(getattr(r.survey.facts, name) for r in reports) for name in ("rows", "bad_rows"))
    print(f"{'clean' if clean else 'findings'}: {bad:,} of {rows:,} rows have something wrong")
    if arguments.quarantine is not None:
        print(f"{arguments.quarantine}: the rows to leave out; train with --exclude {arguments.quarantine}")
    return 0 if clean else 1


def describe(report: Any) -> Iterator[str]:
    """The lines about one source."""
    source, facts = report.survey.source, report.survey.facts
    yield f"{source.name}: {source.path}"
    if report.survey.broken:
        yield f"  cannot be read: {report.survey.broken}"
        return
    more = f" ({facts.duplicates:,} of them repeat others)" if facts.duplicates else ""
    media = f"{facts.images:,} images, {facts.videos:,} videos, {facts.text_only:,} rows of text only"
    yield f"  {facts.rows:,} rows{more}; {media}"
    for kind, name in NAMES.items():
        if count := facts.problems[kind]:
            shown = report.examples[kind]
            yield f"  {count:,} {name}: {shown[0][1].remedy}"
            yield from (f"    row {row}: {problem.reason}" for row, problem in shown)
            if count > len(shown):
                yield f"    … and {count - len(shown):,} more"
    for key, (expected, found) in report.differences.items():
        yield f"  expected {expected:,} {key}, found {found:,}"
    if "missing" in source.expected and "missing" not in report.differences and facts.problems["missing"]:
        yield "  as many media are missing as the recipe expects"
    yield from histogram(report.to_dict())


def histogram(content: dict[str, Any]) -> Iterator[str]:
    """Token lengths as bars of text."""
    bins, tokens = content["token_histogram"], content["statistics"]["tokens"]
    if not bins:
        return
    yield f"  tokens per sample: median {tokens['median']:,}, 95 % up to {tokens['p95']:,}, longest {tokens['max']:,}"
    most = max(one["samples"] for one in bins)
    for one in bins:
        bar = "#" * -(-_BAR * one["samples"] // most)
        yield f"  {one['from']:>9,} to {one['to'] - 1:>9,}  {one['samples']:>10,}  {bar}".rstrip()
