"""`cambrian-gaze plan`: what training runs will take, as tables, without weights or data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cambrian_gaze.cli.arguments import positive
from cambrian_gaze.files import write_json
from cambrian_gaze.training.config.flags import asks_for, split_files, take
from cambrian_gaze.training.config.layers import ConfigError

if TYPE_CHECKING:
    from cambrian_gaze.training.estimate.plan import RunEstimate


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze plan",
        usage="cambrian-gaze plan CONFIG.yaml [CONFIG.yaml …] [options] [--key value …]",
        description="Parameters, memory, FLOPs and hours of training runs, and what will go wrong. Several "
        "configurations are added up. Every key of `cambrian-gaze train` is a flag too.",
        allow_abbrev=False,
    )
    parser.add_argument("--gpus", type=positive, default=8, metavar="N", help="devices in all; default: 8")
    parser.add_argument("--gpu", default="h100", metavar="NAME", help="h100, h200, a100, a100-40, …; default: h100")
    parser.add_argument("--mfu", type=float, default=0.35, help="share of the peak that is reached; assumed: 0.35")
    parser.add_argument("--samples", type=positive, metavar="N", help="samples of an epoch, where no recipe says")
    parser.add_argument("--frames", type=positive, metavar="N", help="images or frames of a sample with any")
    parser.add_argument("--text_tokens", type=positive, metavar="N", help="text tokens of the mean sample")
    parser.add_argument("--supervised_tokens", type=positive, metavar="N", help="of these, the answers'")
    parser.add_argument("--visual_share", type=float, metavar="R", help="share of the samples that hold any image")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plans. Returns the exit status."""
    configs, words = split_files(list(sys.argv[1:] if argv is None else argv))
    parser = build_parser()
    if asks_for("help", [*configs, *words]):
        parser.print_help()
        return 0
    try:
        own, flags = take(words, vars(parser.parse_args([])))
    except ConfigError as error:
        parser.error(str(error))
    options = parser.parse_args(own)
    if not configs:
        parser.error("name at least one configuration, before the options")

    from cambrian_gaze.training.estimate.plan import make_plan

    data = {name: getattr(options, name) for name in ("samples", "text_tokens", "supervised_tokens", "visual_share")}
    try:
        plans = [
            make_plan([config, *flags], options.gpus, options.gpu, options.mfu, options.frames, **data)
            for config in configs
        ]
    except (ValueError, OSError) as error:
        print(f"cambrian-gaze plan: {error}", file=sys.stderr)
        return 2
    print("\n\n".join([*map(table, plans), *total(plans)]))
    if options.json is not None:
        write_json(options.json, [plan.as_dict() for plan in plans])
    return 0


def table(plan: RunEstimate) -> str:
    """One plan as text."""
    from cambrian_gaze.training.estimate.plan import GIB, USABLE

    batch, data = plan.batch, plan.data
    lines = [f"{plan.config} on {plan.gpus} × {plan.gpu}", "", "parameters"]
    lines += [
        _row(name, f"{every / 1e6:,.1f} M", f"{trained / 1e6:,.1f} M trained")
        for name, (every, trained) in plan.parameters.items()
    ]
    needed = sum(plan.memory.values())
    shards = plan.gpus // batch["readers"]
    of = f", shared by {shards} GPUs" if shards > 1 else ""
    lines += ["", f"memory of one GPU, batch of {batch['per_device']} × {batch['length']:,} tokens{of}"]
    lines += [_row(part, f"{amount / GIB:,.2f} GiB") for part, amount in plan.memory.items() if amount]
    lines.append(_row("together", f"{needed / GIB:,.2f} GiB", f"of {USABLE * plan.memory_gb * 1e9 / GIB:,.0f} GiB"))
    both = ", ".join(f"{name} {amount / GIB:,.1f} GiB" for name, amount in plan.activations.items())
    lines.append(f"  activations and temporaries {both}")
    flops = sum(plan.flops.values())
    who = f"{plan.gpus} GPUs" if shards == 1 else f"{batch['readers']} groups of {shards} GPUs"
    lines += [
        "",
        f"a step: {batch['global']} samples = {who} × {batch['per_device']} × {batch['accumulation']} "
        f"micro-batches, {plan.tokens['per_step']:,.0f} tokens",
    ]
    lines += [_row(part, f"{amount / 1e12:,.1f} TFLOP", f"{amount / flops:.1%}") for part, amount in plan.flops.items()]
    lines.append(_row("together", f"{flops / 1e12:,.1f} TFLOP"))
    sample = f"{plan.tokens['visual']:,.0f} visual + {plan.tokens['context']:,.0f} context + {data.text_tokens} text"
    samples = "unknown" if data.samples is None else f"{data.samples:,}"
    lines += ["", f"data: {samples} samples of {sample} tokens ({data.source})"]
    if plan.hours is not None:
        lines.append(
            f"time: {plan.steps:,} steps, {plan.hours:,.1f} hours, {plan.gpu_hours:,.0f} GPU-hours at an assumed MFU "
            f"of {plan.mfu:g}"
        )
    return "\n".join([*lines, *(f"warning: {text}" for text in plan.warnings)])


def total(plans: Sequence[RunEstimate]) -> list[str]:
    """The sum of several runs, and the paper's figure beside it where they are its two on H100."""
    from cambrian_gaze.training.estimate.plan import PAPER_GPU_HOURS, PAPER_PARTS

    if any(plan.hours is None for plan in plans):
        return []
    hours = sum(plan.gpu_hours for plan in plans)
    lines = [f"together: {hours:,.0f} GPU-hours"] if len(plans) > 1 else []
    if PAPER_PARTS <= {plan.recipe for plan in plans} and {plan.gpu for plan in plans} == {"h100"}:
        off = hours / PAPER_GPU_HOURS - 1
        lines.append(
            f"the paper: about {PAPER_GPU_HOURS} H100 GPU-hours for image and video training; this plan lies "
            f"{abs(off):.0%} {'above' if off > 0 else 'below'}, its MFU assumed and not fitted"
        )
    return ["\n".join(lines)] if lines else []


def _row(name: str, *cells: str) -> str:
    return f"  {name:<28}" + "".join(f"{cell:>20}" for cell in cells)
