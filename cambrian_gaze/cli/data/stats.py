"""`cambrian-gaze data stats`: how long samples are and what shape pictures have, as numbers and PNG files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.cli.arguments import sampling_from
from cambrian_gaze.cli.data.arguments import add_data, add_workers, processor_from, recipe_from


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze data stats",
        description="Plot lengths, visual tokens, frames, sizes and shapes of a recipe's rows. Of media the headers "
        "are read; what cannot be read is left out (see `data check`).",
    )
    add_data(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for lengths.png, pictures.png, stats.json")
    add_workers(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files. Returns the exit status."""
    arguments = build_parser().parse_args(argv)
    from cambrian_gaze.data.inspect.record import Inspector
    from cambrian_gaze.data.inspect.survey import WorkerDied
    from cambrian_gaze.extras import require

    try:
        require("matplotlib", "charts")
        processor = processor_from(arguments, default="tiny")
        recipe = recipe_from(arguments, processor)
        options = {"processor": processor, "image_position": arguments.image_position}
        inspector = Inspector("header", sampling_from(arguments), **options)
    except (ImportError, OSError, ValueError) as error:
        print(f"cambrian-gaze data stats: {error}", file=sys.stderr)
        return 2
    try:
        for line in write(recipe, inspector, arguments):
            print(line)
    except (OSError, ValueError, WorkerDied) as error:
        print(f"cambrian-gaze data stats: {error}", file=sys.stderr)
        return 1
    return 0


def write(recipe: Any, inspector: Any, arguments: argparse.Namespace) -> list[str]:
    """The files, and a line about each."""
    from cambrian_gaze.data.inspect.stats import statistics
    from cambrian_gaze.data.inspect.survey import Facts, survey
    from cambrian_gaze.files import write_png, write_text
    from cambrian_gaze.viz.charts.data_charts import length_panels, picture_panels
    from cambrian_gaze.viz.charts.histograms import draw_histograms

    surveys = {id(one): one for one, _ in survey(recipe, inspector, arguments.workers)}.values()
    whole = Facts()
    for one in surveys:
        if one.broken:
            raise ValueError(one.broken)
        whole.add(one.facts)
    counted_by = arguments.model or f"preset {arguments.preset or 'tiny'}"
    sources = "one source" if len(surveys) == 1 else f"{len(surveys)} sources"
    text = f"{whole.rows:,} rows of {sources}, {whole.bad_rows:,} with something wrong; tokens as {counted_by}"
    out, lines = Path(arguments.out), []
    limit = arguments.max_length or 2048
    for name, panels in (("lengths.png", length_panels(whole, limit)), ("pictures.png", picture_panels(whole))):
        if panels:
            write_png(out / name, draw_histograms(panels, f"{recipe.name}: {Path(name).stem}", text))
            lines.append(f"{out / name}: {', '.join(panel.title for panel in panels)}")
        else:
            lines.append(f"{out / name}: not written, there is nothing to plot")
    content = {"recipe": recipe.name, "tokens_as": counted_by, "all": statistics(whole)}
    content["sources"] = {one.source.name: statistics(one.facts) for one in surveys}
    write_text(out / "stats.json", json.dumps(content, indent=2) + "\n")
    return [*lines, f"{out / 'stats.json'}: the numbers, by source"]
