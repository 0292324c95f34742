"""`cambrian-gaze eval routing`: does routing find the right place, and is the place needed?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cambrian_gaze.cli.arguments import add_device, add_model, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options; `--gaze` is shared with others."""
    add_model(parser, adapter=False)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="DIR", help="folder of routing.jsonl and its pictures")
    source.add_argument(
        "--quickstart", metavar="DIR", help="a quickstart's data folder: its held-out pages, whose cells are the masks"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="figures, judged tokens and captions")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N pictures")
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="draws of random routing; default: 3")
    parser.add_argument(
        "--pictures", type=positive, metavar="N", help="draw N pictures for each seed; default: all, each time"
    )
    parser.add_argument(
        "--max_new_tokens", type=positive, default=512, metavar="N", help="longest caption of the model; default: 512"
    )
    parser.add_argument(
        "--no_counterfactual", action="store_true", help="do not hide regions: about a third of the time"
    )
    parser.add_argument(
        "--batch_size", type=positive, default=16, metavar="N", help="rows with hidden regions; default: 16"
    )
    add_device(parser)


def run(arguments: argparse.Namespace, gaze: dict[str, Any]) -> int:
    """Measure, print and store. Returns the exit status."""
    from itertools import islice

    from tqdm import tqdm

    from cambrian_gaze.cli.loading import load
    from cambrian_gaze.evaluation.routing.measure import RoutingOptions, judge
    from cambrian_gaze.evaluation.routing.records import read_records
    from cambrian_gaze.evaluation.routing.report import write_reports
    from cambrian_gaze.evaluation.routing.score import score

    output = Path(arguments.output)
    if arguments.quickstart is not None:
        from cambrian_gaze.quickstart.routing import read_pages

        records, folder = read_pages(arguments.quickstart), Path(arguments.quickstart) / "images"
    else:
        records, folder = read_records(arguments.data), Path(arguments.data)
    records = list(islice(records, arguments.limit))
    options = RoutingOptions(
        gaze=gaze,
        max_new_tokens=arguments.max_new_tokens,
        counterfactual=not arguments.no_counterfactual,
        batch_size=arguments.batch_size,
    )
    model, processor = load(arguments.model, arguments.device)
    judged = [judge(model, processor, record, folder, options) for record in tqdm(records, desc="pictures")]
    figures = score(judged, arguments.seeds, arguments.pictures)
    about = {
        "model": arguments.model,
        "data": arguments.data or arguments.quickstart,
        "gaze": model.config.gaze_config.override(**gaze).to_dict(),
    }
    print(write_reports(figures, about, records, judged, output))
    return 0
