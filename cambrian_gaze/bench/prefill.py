"""`cambrian-gaze bench prefill`: one layer's prefill of a long video, gaze beside dense, and how both grow.

A prompt is a little text, one video of N_v tokens, and text again; queries, keys and values are random. Dense is plain
causal attention over the same tokens and transformers' cache. Gaze is the backend that `auto` picks, the layout, the
regions' descriptors and choice, and the cache that keeps keys region by region. Memory is what a call holds at its peak
beyond queries, keys, values and the cache that it leaves behind; the layer's output counts.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from cambrian_gaze import measure

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from cambrian_gaze.bench.attention_cases import AttentionCase

SECTION = "bench prefill"
"""Name of this bench's table; its words are in `bench/pages/texts.py`."""

COLUMNS = {
    "visual_tokens": "N_v",
    "text_tokens": "T",
    "heads": "heads",
    "kv_heads": "KV heads",
    "head_dim": "head size",
    "dtype": "dtype",
    "arm": "arm",
    "kept": "kept",
    "median_us": "µs",
    "ratio_to_dense": "dense / this",
    "peak_bytes": "peak memory",
    "time_growth": "time grows as N^",
    "peak_growth": "memory grows as N^",
    "note": "note",
}

QUICK: dict[str, Any] = {"visual": [576, 1152], "repeats": 3}
"""Defaults under `--quick`."""

ON_CPU = {"heads": 4, "kv_heads": 2, "head_dim": 64, "dtype": "fp32"}
ON_GPU = {"heads": 32, "kv_heads": 8, "head_dim": 128, "dtype": "bf16"}
"""What is measured where the command line leaves it open: the 4B decoder's heads on a GPU."""

ARMS = ("dense", "gaze")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    parser.add_argument(
        "--visual",
        type=int,
        nargs="+",
        default=[576, 4608, 9216, 18432, 36864],
        metavar="N",
        help="visual tokens, multiples of 576; default: 576 4608 9216 18432 36864",
    )
    parser.add_argument("--text", type=int, default=128, metavar="T", help="text tokens; default: 128")
    parser.add_argument("--keep_ratio", type=float, default=0.125, metavar="R", help="regions kept; default: 0.125")
    parser.add_argument("--granularity", choices=["q_head", "kv_group"], default="q_head", help="default: q_head")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], help="default: fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--heads", type=int, metavar="H", help="query heads; default: 4 on a CPU, 32 on a GPU")
    parser.add_argument("--kv_heads", type=int, metavar="G", help="KV heads; default: 2 on a CPU, 8 on a GPU")
    parser.add_argument("--head_dim", type=int, metavar="D", help="head size; default: 64 on a CPU, 128 on a GPU")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: both")
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        metavar="N",
        help="timed calls of each, after one whose memory is measured; 0: memory alone; default: 3",
    )
    measure.add_time_limit(parser)


def run(args: argparse.Namespace) -> list[measure.Row]:
    """A row per size and arm. Raises ValueError for sizes that make no sense."""
    import torch

    from cambrian_gaze.bench.attention_cases import AttentionCase

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no GPU here")
    plan = ON_CPU if device == "cpu" else ON_GPU
    plan = {name: value if getattr(args, name) is None else getattr(args, name) for name, value in plan.items()}
    up = measure.time_is_up(args)
    rows: list[measure.Row] = []
    for visual in sorted(args.visual):
        case = AttentionCase(
            args.text, visual, keep_ratio=args.keep_ratio, granularity=args.granularity, device=device, **plan
        )
        for arm in args.arms:
            values = {"note": measure.NO_TIME_LEFT} if up() else _measured(case, arm, args.repeats)
            rows.append(
                measure.row(
                    arm=arm,
                    visual_tokens=visual,
                    text_tokens=args.text,
                    kept=1.0 if arm == "dense" else case.kept,
                    granularity=None if arm == "dense" else args.granularity,
                    device=device,
                    **plan,
                    **values,
                )
            )
    measure.add_ratios(rows, ("visual_tokens", "device"))
    for name, value in (("time_growth", "median_us"), ("peak_growth", "peak_bytes")):
        _add_growth(rows, name, value)
    return rows


def _add_growth(rows: list[measure.Row], name: str, value: str) -> None:
    """The exponent from each arm's last smaller size to this one."""
    last: dict[str, measure.Row] = {}
    for row in rows:
        before = last.get(row["arm"])
        row[name] = None
        if row.get(value):
            if before is not None:
                size = row["visual_tokens"] / before["visual_tokens"]
                row[name] = math.log(row[value] / before[value]) / math.log(size)
            last[row["arm"]] = row


def _measured(case: AttentionCase, arm: str, repeats: int) -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    device, inputs = torch.device(case.device), case.tensors()
    with torch.no_grad():
        call = (_dense if arm == "dense" else _gaze)(case, inputs)
        kept: list[Any] = []

        def once() -> None:
            kept[:] = [call()]

        try:
            peak = measure.peak_bytes(once, device)
            cache = kept.pop()
            held = sum(x.nbytes for x in cache.values())
            del cache
            time = measure.median_us(call, device, warmup=0, repeats=repeats) if repeats else None
        except torch.OutOfMemoryError:
            return {"note": "out of memory"}
    return {"peak_bytes": peak - held, "cache_bytes": held, "median_us": time, "note": None}


def _dense(case: AttentionCase, inputs: tuple[torch.Tensor, ...]) -> Callable[[], dict[str, torch.Tensor]]:
    """A call that fills a cache and returns its tensors."""
    from torch.nn.functional import scaled_dot_product_attention
    from transformers import DynamicCache

    q, k, v = inputs

    def call() -> dict[str, torch.Tensor]:
        cache = DynamicCache()
        keys, values = cache.update(k, v, 0)
        scaled_dot_product_attention(q, keys, values, is_causal=True, scale=case.scaling, enable_gqa=True)
        return {"keys": cache.layers[0].keys, "values": cache.layers[0].values}

    return call


def _gaze(case: AttentionCase, inputs: tuple[torch.Tensor, ...]) -> Callable[[], dict[str, torch.Tensor]]:
    """The same of a gaze cache."""
    from cambrian_gaze.attention import GazeContext, Heads, attend, prepare
    from cambrian_gaze.models.cache.cache import GazeCache

    q, k, v = inputs
    heads = Heads(case.heads, case.kv_heads, case.head_dim)
    # Whatever `auto` tries on a GPU, it tries now.
    prepare(GazeContext(config=case.config, layout=case.layout, key_layout=case.layout), q.device, q.dtype, heads)

    def call() -> dict[str, torch.Tensor]:
        layout, config, cache = case.derive(), case.config, GazeCache(case.config)
        cache.extend(layout)
        ctx = GazeContext(config=config, layout=layout, key_layout=layout, cache=cache)
        prepare(ctx, q.device, q.dtype, heads)
        keys, values = cache.update(k, v, 0)
        attend(q, keys, values, ctx, layer=0, scaling=case.scaling)
        layer = cache.layers[0]
        stores = {name: store.data for name, store in layer.stores.items()}
        return stores | {
            "descriptors": layer.descriptors,
            "text": layer._text_context_keys,
            "text values": layer._text_context_values,
        }

    return call
