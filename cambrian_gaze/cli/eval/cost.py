"""`cambrian-gaze eval cost`: what attention costs, dense beside gaze, and the scores of runs beside that."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cambrian_gaze.cli.arguments import add_device, add_model, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options; `--gaze` is shared with others."""
    add_model(parser, adapter=False)
    parser.add_argument("--output", required=True, metavar="DIR", help="where cost.md and cost.json go")
    parser.add_argument("--frames", type=positive, metavar="N", help="a video of N frames; default: one picture")
    parser.add_argument(
        "--question", default="Describe what is shown, in detail.", metavar="TEXT", help="default: %(default)s"
    )
    parser.add_argument(
        "--new_tokens", type=positive, default=32, metavar="N", help="length of the answer, at least 2; default: 32"
    )
    parser.add_argument(
        "--runs", nargs="+", default=[], metavar="DIR", help="outputs of `cambrian-gaze eval run` to stand beside"
    )
    add_device(parser)


def run(arguments: argparse.Namespace, gaze: dict[str, Any]) -> int:
    """Measure, print and store. Returns the exit status."""
    from cambrian_gaze.cli.loading import load
    from cambrian_gaze.evaluation.cost.cost import measure_costs
    from cambrian_gaze.evaluation.cost.report import quality, write_reports

    beside = [row for folder in arguments.runs for row in quality(folder)]
    model, processor = load(arguments.model, arguments.device)
    costs = measure_costs(
        model, processor, gaze, frames=arguments.frames, question=arguments.question, new_tokens=arguments.new_tokens
    )
    seen = "one picture" if arguments.frames is None else f"a video of {arguments.frames} frames"
    about = {
        "model": arguments.model,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "gaze": model.config.gaze_config.override(**gaze).to_dict(),
        "input": f"{seen} of random pixels, {costs[0].of} visual tokens; {costs[0].queries} text tokens after it; "
        f"answers of {arguments.new_tokens} tokens; batch 1; {str(model.dtype).removeprefix('torch.')}",
    }
    print(write_reports(costs, about, beside, Path(arguments.output)))
    return 0
