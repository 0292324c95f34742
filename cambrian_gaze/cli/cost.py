"""`cambrian-gaze cost`: the KV entries that a text query attends to, from the cost model, without a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cambrian_gaze.cli.arguments import extent, positive


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze cost",
        description="Count the visual KV entries that one text query attends to, per layer and head.",
    )
    parser.add_argument(
        "--grid",
        type=extent,
        nargs="+",
        default=[(1, 24, 24)],
        metavar="HxW",
        help="visual tokens, after the projector, of each image (24x24) or video (8x24x24, frames first) before the "
        "query; default: 24x24",
    )
    parser.add_argument(
        "--region", type=extent, default=(1, 6, 6), metavar="HxW", help="tokens per region, 6x6 or 1x6x6; default: 6x6"
    )
    parser.add_argument(
        "--top_k", type=positive, nargs="+", default=[1, 2, 4, 8], metavar="K", help="regions kept; default: 1 2 4 8"
    )
    parser.add_argument(
        "--num_context_tokens", type=int, default=4, metavar="C", help="context tokens per image or frame; default: 4"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print one row per K. Returns the exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)

    from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
    from cambrian_gaze.gaze.cost import attended_visual

    try:
        rows = []
        for k in arguments.top_k:
            budget = RegionBudget(region_size=arguments.region, top_k=k)
            config = GazeConfig(image=budget, num_context_tokens=arguments.num_context_tokens)
            rows.append((k, attended_visual(arguments.grid, config)))
    except ValueError as error:
        parser.error(str(error))
    print(f"{'K':>5} {'of R':>5} {'selected':>9} {'context':>8} {'attended':>9} {'of':>7} {'share':>7}")
    for k, cost in rows:
        print(
            f"{k:>5} {cost.regions:>5} {cost.selected:>9} {cost.context:>8} {cost.total:>9} {cost.of:>7} "
            f"{cost.share:>7.1%}"
        )
    return 0
