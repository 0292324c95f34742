"""`cambrian-gaze answer`: a saved model answers every record of a data file, into a journal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cambrian_gaze.cli.arguments import (
    add_generation,
    add_image_position,
    add_video,
    gaze_options,
    positive,
    sampling_from,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze answer",
        description="Answer every record of a LLaVA-format file. Answers go to a JSONL journal, with the KV entries "
        "that were counted; an interrupted run goes on where it stopped.",
    )
    parser.add_argument("--data_path", required=True, metavar="FILE", help="JSON or JSONL records in LLaVA's form")
    parser.add_argument("--image_folder", default=".", metavar="DIR", help="where their paths start; default: here")
    parser.add_argument("--output", required=True, metavar="FILE.jsonl", help="the journal of answers")
    parser.add_argument("--batch_size", type=positive, default=16, metavar="N", help="default: 16")
    add_video(parser)
    add_image_position(parser)
    add_generation(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the journal and print a summary. Returns the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        print(answer(arguments))
    except (ImportError, OSError, ValueError) as error:
        print(f"cambrian-gaze answer: {error}", file=sys.stderr)
        return 1
    return 0


def answer(arguments: argparse.Namespace) -> str:
    """The summary: how many answers, and the mean of what their queries attended to."""
    from tqdm import tqdm

    from cambrian_gaze.cli.loading import load
    from cambrian_gaze.data.records import read_records
    from cambrian_gaze.evaluation.answers import AnswerOptions, answer_records
    from cambrian_gaze.evaluation.journal import Journal

    sampling = sampling_from(arguments)
    records = read_records(arguments.data_path)
    model, processor = load(arguments.model, arguments.device, arguments.adapter, arguments.system)
    options = AnswerOptions(
        generation={"max_new_tokens": arguments.max_new_tokens, "do_sample": False},
        gaze=gaze_options(arguments),
        sampling=sampling,
        batch_size=arguments.batch_size,
        image_position=arguments.image_position,
    )
    with Journal(arguments.output) as journal, tqdm(total=len(records), unit="answer") as bar:
        entries = answer_records(model, processor, records, arguments.image_folder, journal, options, bar.update)
    counts = [entry["attended"] for entry in entries]
    attended = sum(count["visual"] + count["context"] for count in counts) / len(counts)
    visual = sum(count["of"] for count in counts) / len(counts)
    return (
        f"{len(entries)} answers in {arguments.output}; {attended:.1f} visual KV entries attended per query, "
        f"context tokens included, where {visual:.1f} visual tokens were cached"
    )
