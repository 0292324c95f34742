"""Arguments that `data check`, `stats` and `preview` share, and what is made of them. Plain Python until it is used."""

from __future__ import annotations

import argparse
from typing import Any

from cambrian_gaze.cli.arguments import add_image_position, add_video, positive


def add_data(parser: argparse.ArgumentParser) -> None:
    """What to read, where its media are, whose tokenizer counts."""
    parser.add_argument("paths", nargs="+", metavar="RECIPE|FILE", help="recipes (YAML), JSON, JSONL or Parquet files")
    parser.add_argument("--image_folder", metavar="DIR", help="where image paths start, if a recipe does not say")
    parser.add_argument("--video_folder", metavar="DIR", help="where video paths start; default: the image folder")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="DIR", help="model folder or Hub name whose processor counts the tokens")
    model.add_argument("--preset", metavar="NAME", help="the same for a preset: tiny, 4b, 7b, 4b-512, 7b-512")
    parser.add_argument("--max_length", type=positive, metavar="N", help="longer samples are over-long; default: 2048")
    add_video(parser)
    add_image_position(parser)


def whole(text: str) -> int:
    """An integer of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no integer of at least 0")
    return int(text)


def add_workers(parser: argparse.ArgumentParser) -> None:
    """How many processes read."""
    parser.add_argument("--workers", type=whole, metavar="N", help="processes; default: one per core, 0: none")


def recipe_from(arguments: argparse.Namespace, processor: Any = None) -> Any:
    """The `Recipe`; under a `processor` with the system turns that training would give it. Raises ValueError."""
    from cambrian_gaze.data.mixture.recipe import recipe_of, with_system

    recipe = recipe_of(arguments.paths, arguments.image_folder or ".", arguments.video_folder)
    return recipe if processor is None else with_system(recipe, processor)


def processor_from(arguments: argparse.Namespace, default: str | None = None) -> Any:
    """The processor of `--model` or `--preset`, or that of the preset `default`; None without any. Raises OSError,
    ValueError."""
    preset = arguments.preset or (None if arguments.model else default)
    if preset is None and arguments.model is None:
        return None
    from cambrian_gaze.models.processing.processor import CambrianGazeProcessor

    if preset is not None:
        return CambrianGazeProcessor.from_preset(preset)
    return CambrianGazeProcessor.from_pretrained(arguments.model)
