"""Arguments that several subcommands share. Plain Python: `--help` must not wait for torch."""

from __future__ import annotations

import argparse
from typing import Any

BUDGETS = ("top_k", "keep_ratio", "kv_budget")


def positive(text: str) -> int:
    """An integer of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer of at least 1")
    return number


def extent(text: str) -> tuple[int, int, int]:
    """`HxW` or `TxHxW` in visual tokens as (T, H, W), T = 1 where it is not given."""
    parts = text.lower().split("x")
    if len(parts) not in (2, 3) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 24x24 (height x width) or 8x24x24 (frames first)")
    t, h, w = ["1", *parts][-3:]
    return int(t), int(h), int(w)


def add_generation(parser: argparse.ArgumentParser) -> None:
    """The options of a command that generates: model, budget, length, device."""
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of save_pretrained, or a Hub name")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--top_k", type=positive, metavar="K", help="regions per query, head and layer")
    budget.add_argument("--keep_ratio", type=float, metavar="R", help="share of the regions; 1.0 is dense attention")
    budget.add_argument("--kv_budget", type=positive, metavar="N", help="visual tokens per query")
    parser.add_argument("--max_new_tokens", type=positive, default=128, metavar="N", help="default: 128")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; default: cuda where there is one")


def gaze_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The budget given, as `generate(gaze=…)` takes it; empty: as the checkpoint has it."""
    return {name: getattr(arguments, name) for name in BUDGETS if getattr(arguments, name) is not None}
