"""`cambrian-gaze answer`: a saved model answers every record of a data file, into a journal."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.cli.arguments import (
    add_generation,
    add_image_position,
    add_policy,
    add_sampling,
    add_video,
    gaze_options,
    one_line,
    policy_from,
    positive,
    sampling_from,
    sampling_options,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze answer",
        description="Answer every record of a LLaVA-format file. Answers go to a JSONL journal with question, "
        "reference and the KV entries that were counted, in the file's order; an interrupted run goes on where it "
        "stopped. "
        "Records that cannot be answered are named, and the exit status is 1; the others are answered.",
    )
    parser.add_argument("--data_path", required=True, metavar="FILE", help="JSON or JSONL records in LLaVA's form")
    parser.add_argument("--image_folder", default=".", metavar="DIR", help="where image paths start; default: here")
    parser.add_argument("--video_folder", metavar="DIR", help="where video paths start; default: the image folder")
    parser.add_argument("--output", required=True, metavar="FILE.jsonl", help="the journal of answers")
    parser.add_argument(
        "--trace_folder",
        metavar="DIR",
        help="keep the trace of every new answer with pictures there, for `cambrian-gaze gaze`; logits of a batch are "
        "held while it is answered",
    )
    parser.add_argument("--batch_size", type=positive, default=16, metavar="N", help="default: 16")
    add_video(parser)
    add_image_position(parser)
    add_generation(parser)
    add_policy(parser)
    add_sampling(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the journal and print a summary. Returns the exit status: 1 where records were not answered, 2 where
    nothing could be."""
    arguments = build_parser().parse_args(argv)
    try:
        summary, left_out = answer(arguments)
    except (ImportError, OSError, ValueError) as error:
        print(f"cambrian-gaze answer: {one_line(error)}", file=sys.stderr)
        return 2
    print(summary)
    return int(left_out > 0)


def answer(arguments: argparse.Namespace) -> tuple[str, int]:
    """The summary (how many answers, and the mean of what their queries attended to), and how many records were left
    without one; each of them is named on stderr."""
    from tqdm import tqdm

    sampling, generation = sampling_from(arguments), sampling_options(arguments)
    if arguments.trace_folder is not None and arguments.policy:
        raise ValueError("--trace_folder keeps the regions that were chosen, and under --policy none is; leave one out")
    gaze, policy = gaze_options(arguments), policy_from(arguments)
    for flag, folder in (("--image_folder", arguments.image_folder), ("--video_folder", arguments.video_folder)):
        if folder is not None and not Path(folder).is_dir():
            raise NotADirectoryError(f"{flag} {folder}: there is no such folder")

    from cambrian_gaze.cli.loading import load
    from cambrian_gaze.data.records.records import read_records
    from cambrian_gaze.evaluation.answers import answer_records
    from cambrian_gaze.evaluation.journal import Journal, alone
    from cambrian_gaze.evaluation.questions import AnswerOptions

    records = read_records(arguments.data_path)
    model, processor = load(arguments.model, arguments.device, arguments.adapter, arguments.system)
    options = AnswerOptions(
        generation={"max_new_tokens": arguments.max_new_tokens, **generation},
        gaze=gaze,
        policy=policy,
        sampling=sampling,
        batch_size=arguments.batch_size,
        image_position=arguments.image_position,
        seed=arguments.seed if generation["do_sample"] else None,
        video_folder=arguments.video_folder,
        traced=None if arguments.trace_folder is None else tracer(arguments, model, processor),
    )
    left_out = 0

    def failed(name: str, error: Exception) -> None:
        nonlocal left_out
        left_out += 1
        tqdm.write(f"cambrian-gaze answer: not answered: {one_line(error)}", file=sys.stderr)

    folder = arguments.image_folder
    with (
        alone(arguments.output),
        Journal(arguments.output) as journal,
        tqdm(total=len(records), unit="answer") as bar,
    ):
        entries = answer_records(model, processor, records, folder, journal, options, bar.update, failed)
    return summary(entries, arguments.output, left_out), left_out


def tracer(arguments: argparse.Namespace, model: Any, processor: Any) -> Callable[..., None]:
    """What keeps the trace of an answer: see `AnswerOptions.traced`. Files are named after the record's id and the
    answer's key; an answer without pictures has none, and one whose video a trace cannot keep is named on stderr."""
    from cambrian_gaze.evaluation.prompts import beside_pictures, pictures_of
    from cambrian_gaze.viz.trace_record import Asked, model_facts, trace_of

    facts = model_facts(arguments.model) | ({} if arguments.adapter is None else {"adapter": arguments.adapter})

    def keep(question: Any, output: Any, row: int, prompt_tokens: int) -> None:
        pictures = pictures_of(question.load())
        if not pictures:
            return
        try:
            trace = trace_of(
                output,
                model,
                processor,
                Asked(
                    prompt_tokens=prompt_tokens,
                    prompt=beside_pictures(question.facts.get("question", "")),
                    pictures=pictures,
                    gaze=gaze_options(arguments),
                ),
                facts=facts,
                row=row,
            )
            name = re.sub(r"[^\w.-]+", "_", question.id)[:80].lstrip(".")
            trace.save(Path(arguments.trace_folder) / f"{name}-{question.key[:8]}.safetensors")
        except ValueError as error:
            print(f"cambrian-gaze answer: {question.id}: no trace: {one_line(error)}", file=sys.stderr)

    return keep


def summary(entries: Sequence[dict], output: str, left_out: int) -> str:
    """One line about a journal."""
    lost = f"; {left_out} records were not answered, see above" if left_out else ""
    if not entries:
        return f"no answers in {output}{lost}"
    counts = [entry["attended"] for entry in entries]
    attended = sum(count["visual"] + count["context"] for count in counts) / len(counts)
    visual = sum(count["of"] for count in counts) / len(counts)
    return (
        f"{len(entries)} answers in {output}; {attended:.1f} visual KV entries attended per query, "
        f"context tokens included, where {visual:.1f} visual tokens were cached{lost}"
    )
