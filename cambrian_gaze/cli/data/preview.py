"""`cambrian-gaze data preview`: a page of samples as the model sees them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from cambrian_gaze.cli.arguments import positive, sampling_from
from cambrian_gaze.cli.data.arguments import add_data, processor_from, recipe_from

MADE_SQUARE = {"pad": "padded with the mean colour", "square": "stretched; shown in the picture's own shape"}
"""By `image_aspect_ratio`."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze data preview",
        description="Write an HTML page that shows samples as the model sees them: pictures with their region "
        "grid, tokens with their roles, what is supervised; and what is wrong with rows that cannot be used.",
    )
    add_data(parser)
    parser.add_argument("--out", required=True, metavar="PAGE.html", help="where to write the page")
    parser.add_argument("--samples", type=positive, default=8, metavar="N", help="rows per source, spread; default: 8")
    parser.add_argument("--rows", type=positive, nargs="+", metavar="ROW", help="these rows of each source instead")
    parser.add_argument("--quarantine", metavar="FILE", help="show rows of this list, as `data check` wrote it, too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page. Returns the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        print(write(arguments))
    except (OSError, ValueError) as error:
        print(f"cambrian-gaze data preview: {error}", file=sys.stderr)
        return 2
    return 0


def write(arguments: argparse.Namespace) -> str:
    """The page, and a line about it."""
    from tqdm import tqdm

    from cambrian_gaze.data.dataset import SampleOptions
    from cambrian_gaze.data.inspect.preview import preview_row
    from cambrian_gaze.data.mixture.mixture import Mixture, MixtureDataset
    from cambrian_gaze.files import write_text
    from cambrian_gaze.viz.preview import preview_page

    processor, gaze = processor_from(arguments, default="tiny"), gaze_config(arguments)
    recipe = recipe_from(arguments, processor)
    mixture = Mixture(recipe)
    options = SampleOptions(
        sampling=sampling_from(arguments),
        max_length=arguments.max_length,
        on_error="raise",
        image_position=arguments.image_position,
    )
    dataset = MixtureDataset(mixture, processor, options)
    chosen = list(rows_to_show(mixture, arguments))
    settings = processor.image_processor
    previews = [
        preview_row(dataset, source, index, settings.image_mean, settings.image_std)
        for source, index in tqdm(chosen, desc="samples", delay=1.0)
    ]
    budgets = {"image": gaze.image, "video": gaze.video or gaze.image}
    regions = {kind: tuple(budget.region_size[1:]) for kind, budget in budgets.items()}
    facts = {
        "processor": arguments.model or f"preset {arguments.preset or 'tiny'}",
        "picture": f"{settings.size['height']} x {settings.size['width']} pixels, "
        + MADE_SQUARE[processor.image_aspect_ratio],
        "grid": f"{processor.grid_hw[0]} x {processor.grid_hw[1]} visual tokens and "
        f"{processor.num_context_tokens} context tokens for each image or frame",
        "regions": ", ".join(f"{kind}s {tall} x {wide} tokens" for kind, (tall, wide) in regions.items()),
        "rows": f"{len(mixture):,} in an epoch of {recipe.name}",
    }
    path = write_text(arguments.out, preview_page(recipe.name, previews, regions, facts))
    bad = sum(bool(preview.error) for preview in previews)
    return f"{path}: {len(previews)} samples, {bad} of them with an error"


def rows_to_show(mixture: Any, arguments: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """(source, index of its records), those of the quarantine list first, each once."""
    import os

    import numpy as np

    from cambrian_gaze.data.inspect.preview import spread
    from cambrian_gaze.data.quarantine import read_list

    entries = read_list(arguments.quarantine) if arguments.quarantine else []
    for number, (source, records) in enumerate(zip(mixture.sources, mixture.records, strict=True)):
        numbers = records.row_numbers()
        file = os.path.realpath(source.path)
        listed = [entry["row"] for entry in entries if os.path.realpath(entry["file"]) == file]
        bad = [listed[i] for i in spread(len(listed), arguments.samples)]
        shown = set()
        for row in dict.fromkeys([*bad, *(arguments.rows or [])]):
            found = np.flatnonzero(numbers == row)
            if not len(found):
                raise ValueError(f"{source.path} has no row {row}; it has {len(numbers)} rows, up to {numbers[-1]}")
            shown.add(int(found[0]))
            yield number, int(found[0])
        if not arguments.rows:
            others = (index for index in spread(len(records), arguments.samples) if index not in shown)
            yield from ((number, index) for index in others)


def gaze_config(arguments: argparse.Namespace) -> Any:
    """Regions of the model."""
    from cambrian_gaze.models.configuration import CambrianGazeConfig

    if arguments.model:
        return CambrianGazeConfig.from_pretrained(arguments.model).gaze_config
    return CambrianGazeConfig.from_preset(arguments.preset or "tiny").gaze_config
