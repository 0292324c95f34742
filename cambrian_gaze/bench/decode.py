"""`cambrian-gaze bench decode`: one decoding step of one layer, dense beside gaze in one run, on random data.

Dense is the fastest of three forms of `scaled_dot_product_attention` over the same keys: `enable_gqa`; keys and values
repeated beforehand, not at the dense arm's expense; and the query heads of a KV head as so many queries. Gaze is what
`attend` costs a layer of a model: scores, TopK and attention, with the context tokens that dense does not have. `form`
says whether compiled code, Triton or plain torch ran.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

from cambrian_gaze import measure

SECTION = "bench decode"
"""Name of this bench's table; its words are in `bench/pages/texts.py`."""

SECTION_OF_REGIONS = "bench decode regions"
"""The same where K is given as a number of regions."""

SECTION_OF_SHARES = "bench decode shares"
"""The same where several shares are kept."""

SECTION_OF_BATCHES = "bench decode batches"
"""The same with several batch sizes."""

SECTION_OF_LAYERS = "bench decode layers"
"""The same of several layers in turn."""

SECTION_OF_PLAIN_TORCH = "bench decode plain torch"
"""The same without compiled code."""

SECTION_OF_LOAD = "bench decode load"
"""The same beside busy processes."""

COLUMNS = {
    "visual_tokens": "N_v",
    "kept": "kept",
    "regions": "K",
    "granularity": "granularity",
    "dtype": "dtype",
    "batch": "B",
    "layers": "layers",
    "arm": "arm",
    "form": "form",
    "median_us": "µs",
    "ratio_to_dense": "dense / this",
    "max_error": "max error",
    "union_fraction": "pages read",
    "read_bytes": "read",
    "visual_entries": "visual entries per head",
    "attended_entries": "all entries",
    "busy": "busy processes",
    "load_average": "load average of the machine",
    "p90_us": "µs, 90 % of the steps",
}

SIZES = {"heads": 32, "kv_heads": 8, "head_dim": 128, "text_tokens": 64, "context_tokens": 4}
"""Defaults, the 4B decoder's; in every row as measured. The first rows that were kept name none."""

QUICK: dict[str, Any] = {"tokens": [576], "dtype": ["fp32"], "seconds": 0.5}
"""Options of `--quick`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--tokens", type=int, nargs="+", default=[576, 4608, 36864], help="visual tokens per row")
    parser.add_argument("--kept", type=float, nargs="+", help="shares of the regions kept; default: 0.125")
    parser.add_argument("--regions", type=int, nargs="+", metavar="K", help="regions kept, instead of shares")
    parser.add_argument("--granularity", nargs="+", default=["kv_group", "q_head"], choices=["kv_group", "q_head"])
    parser.add_argument("--dtype", nargs="+", default=["bf16", "fp32"], choices=["bf16", "fp16", "fp32"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="rows")
    parser.add_argument("--heads", type=int, default=SIZES["heads"], help="query heads")
    parser.add_argument("--kv-heads", type=int, default=SIZES["kv_heads"])
    parser.add_argument("--head-dim", type=int, default=SIZES["head_dim"])
    parser.add_argument("--text", type=int, default=SIZES["text_tokens"], help="text tokens in the cache")
    parser.add_argument(
        "--context", type=int, default=SIZES["context_tokens"], help="context tokens per unit, read by gaze alone"
    )
    parser.add_argument(
        "--layers", type=int, default=1, help="layers in turn; many of them do not fit the processor's cache"
    )
    parser.add_argument("--plain-torch", action="store_true", help="as on a CPU where nothing could be compiled")
    parser.add_argument(
        "--busy", type=int, nargs="+", default=[0], metavar="N", help="processes beside it that keep a core busy each"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    parser.add_argument("--seconds", type=float, default=5.0, help="time per case, shared by its arms")


def run(args: argparse.Namespace) -> list[measure.Row]:
    """A row per arm and case; the arms of a case take turns in short bursts, so that load falls on all of them.

    Raises: ValueError where sizes do not fit one another.
    """
    import torch

    if args.kept and args.regions:
        raise ValueError("give --kept or --regions, not both")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with torch.no_grad():
        rows = list(_rows(args, device))
    measure.add_ratios(rows, ("visual_tokens", "batch", "dtype", "device", "busy"))
    return rows


def _rows(args: argparse.Namespace, device: str) -> Iterator[measure.Row]:
    from cambrian_gaze.bench.decode_cases import DecodeCase

    section = _section(args)
    for batch in args.batch:
        for tokens in args.tokens:
            budgets = [{"top_k": k} for k in args.regions or ()] or [{"keep_ratio": x} for x in args.kept or [0.125]]
            for dtype in args.dtype:
                sizes = batch, tokens, args.text, args.context, args.heads, args.kv_heads, args.head_dim
                case = DecodeCase(*sizes, dtype, device, args.layers, args.plain_torch)
                for busy in args.busy:
                    with measure.busy_cores(busy):
                        rows = list(case.rows(budgets, args.granularity, args.seconds))
                    # What waits for others shows in the slowest steps, not in the median.
                    load: dict[str, Any] = {"busy": None, "p90_us": None}
                    if section == SECTION_OF_LOAD:
                        load = {"busy": busy, "load_average": round(os.getloadavg()[0], 1)}
                    yield from ({**row, **load, "section": section} for row in rows)


def _section(args: argparse.Namespace) -> str:
    if any(args.busy):
        return SECTION_OF_LOAD
    if args.plain_torch:
        return SECTION_OF_PLAIN_TORCH
    if args.layers > 1:
        return SECTION_OF_LAYERS
    if len(args.batch) > 1:
        return SECTION_OF_BATCHES
    if len(args.kept or ()) > 1:
        return SECTION_OF_SHARES
    return SECTION_OF_REGIONS if args.regions else SECTION
