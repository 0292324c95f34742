"""`cambrian-gaze bench attention`: one layer over a training sample, every backend beside dense attention in one run.

A sample is a little text, one picture or video of N_v tokens, and text again, as in training; keys and values are
random. Dense is plain causal attention over the same tokens, by the fastest form of `scaled_dot_product_attention`.
The times of gaze include describing the regions, scoring and selecting them; what is derived from the layout once per
forward call for all layers is timed apart. Errors are against float64 under the same selection. `--choose` shows what
`backend: auto` would find instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cambrian_gaze import measure

if TYPE_CHECKING:
    import torch

    from cambrian_gaze.bench.attention_cases import AttentionCase

SECTION = "bench attention"
"""Name of this bench's table; its words are in `bench/pages/texts.py`."""

SECTION_OF_CHOICE = "bench attention choice"
"""The table of `--choose`, whose errors are relative: `trial.row_error` against `masked`."""

COLUMNS = {
    "text_tokens": "T",
    "visual_tokens": "N_v",
    "dtype": "dtype",
    "mode": "mode",
    "arm": "arm",
    "form": "form",
    "kept": "kept",
    "median_us": "µs",
    "ratio_to_dense": "dense / this",
    "max_error": "max error",
    "peak_bytes": "peak memory",
    "prepare_us": "once per forward, µs",
    "note": "note",
}

QUICK: dict[str, Any] = {"text": [64], "visual": [576], "repeats": 3}
"""Defaults under `--quick`."""

FORWARD, BACKWARD = "forward", "forward+backward"

ON_CPU: dict[str, Any] = {"text": [64, 256], "visual": [576, 2304], "heads": 4, "kv_heads": 2, "head_dim": 64}
ON_GPU: dict[str, Any] = {
    "text": [64, 256, 1024],
    "visual": [576, 4608, 36864, 147456],
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
}
"""What is measured where the command line leaves it open: the 4B decoder's heads on a GPU."""

GRADIENT_PAIRS = {"cpu": 2**25, "cuda": 2**31}
"""Query heads × tokens² up to which gradients are compared with float64, which takes them all at once."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--device", choices=["all", "cpu", "cuda"], default="all", help="default: all there are")
    parser.add_argument("--text", type=int, nargs="+", metavar="T", help="text tokens; default: by device")
    parser.add_argument(
        "--visual", type=int, nargs="+", metavar="N", help="visual tokens, multiples of 576; default: by device"
    )
    parser.add_argument("--keep_ratio", type=float, default=0.125, metavar="R", help="regions kept; default: 0.125")
    parser.add_argument("--granularity", choices=["q_head", "kv_group"], default="q_head", help="default: q_head")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], help="default: fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--heads", type=int, metavar="H", help="query heads; default: 4 on a CPU, 32 on a GPU")
    parser.add_argument("--kv_heads", type=int, metavar="G", help="KV heads; default: 2 on a CPU, 8 on a GPU")
    parser.add_argument("--head_dim", type=int, metavar="D", help="head size; default: 64 on a CPU, 128 on a GPU")
    parser.add_argument("--arms", nargs="+", metavar="NAME", help="backends beside dense; default: all there are")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="timed calls of each; default: 10")
    parser.add_argument(
        "--choose",
        action="store_true",
        help="what `backend: auto` does on a GPU, at each size, also without gradients: which backends agree with "
        "masked, how fast they are, which one is taken; nothing is kept",
    )
    measure.add_time_limit(parser)


def run(args: argparse.Namespace) -> list[measure.Row]:
    """A row per case, mode and arm. Raises ValueError for sizes or arms that make no sense."""
    import torch

    from cambrian_gaze.attention.registry import BACKENDS

    unknown = [name for name in args.arms or () if name not in BACKENDS]
    if unknown:
        raise ValueError(f"unknown arms: {', '.join(unknown)}; known: {', '.join(BACKENDS)}")
    if args.choose:
        return _chosen(args)
    up = measure.time_is_up(args)
    rows: list[measure.Row] = []
    for name in ("cpu", "cuda") if args.device == "all" else (args.device,):
        present = name == "cpu" or torch.cuda.is_available()
        for case in _cases(args, name):
            rows += _measured(args, case, up) if present else _unmeasured(args, case, "no GPU here")
    measure.add_ratios(rows, ("text_tokens", "visual_tokens", "dtype", "mode", "device"))
    return rows


def _chosen(args: argparse.Namespace) -> list[measure.Row]:
    """A row per case, mode and backend of what `auto` would find. On a CPU, where it tries nothing, and where arms are
    named, what is for tests alone is timed as well, and not taken."""
    import torch

    from cambrian_gaze.attention.choice.auto import rows_of
    from cambrian_gaze.attention.choice.trial import REFERENCE, SECONDS, Heads, Timing, fastest, try_all
    from cambrian_gaze.attention.context import GazeContext
    from cambrian_gaze.attention.registry import BACKENDS
    from cambrian_gaze.bench.attention_cases import DTYPES

    left = measure.time_left(args)
    rows: list[measure.Row] = []
    devices = [name for name in ("cpu", "cuda") if args.device in ("all", name)]
    devices = [name for name in devices if name == "cpu" or torch.cuda.is_available()]
    trials = 2 * sum(len(list(_cases(args, name))) for name in devices)
    for name in devices:
        candidates = {
            arm: backend
            for arm, backend in BACKENDS.items()
            if arm == REFERENCE or (arm in args.arms if args.arms else name == "cpu" or not backend.only_for_tests)
        }
        for case in _cases(args, name):
            ctx = GazeContext(config=case.config, layout=case.layout, key_layout=case.layout)
            heads, dtype = Heads(case.heads, case.kv_heads, case.head_dim), DTYPES[case.dtype]
            for mode in (FORWARD, BACKWARD):
                # Each of those left has as long as the others, so that one that compiles for long leaves them some.
                seconds, trials = min(SECONDS, left() / trials), trials - 1
                if seconds < 0:
                    rows.append(_row(case, mode, "auto", None, note=measure.NO_TIME_LEFT, section=SECTION_OF_CHOICE))
                    continue
                device, timing = torch.device(name), Timing(seconds)
                outcomes = try_all(ctx, heads, device, dtype, candidates, gradients=mode == BACKWARD, timing=timing)
                best = fastest([o for o in outcomes if not candidates[o.name].only_for_tests])
                rows += [
                    _row(case, mode, form=None, **found, section=SECTION_OF_CHOICE) for found in rows_of(outcomes, best)
                ]
    return rows


def _cases(args: argparse.Namespace, device: str) -> Iterator[AttentionCase]:
    from cambrian_gaze.bench.attention_cases import AttentionCase

    plan = ON_CPU if device == "cpu" else ON_GPU
    plan = {key: plan[key] if getattr(args, key) is None else getattr(args, key) for key in plan}
    for visual in plan.pop("visual"):
        for text in plan["text"]:
            yield AttentionCase(
                **{**plan, "text": text},
                visual=visual,
                keep_ratio=args.keep_ratio,
                granularity=args.granularity,
                dtype=args.dtype or ("fp32" if device == "cpu" else "bf16"),
                device=device,
            )


def _arms(args: argparse.Namespace) -> Iterator[tuple[str, str | None]]:
    """(arm, form): the dense forms, then the backends."""
    from cambrian_gaze.attention.registry import BACKENDS
    from cambrian_gaze.bench.attention_cases import DENSE_FORMS

    yield from (("dense", form) for form in DENSE_FORMS)
    yield from ((name, None) for name in BACKENDS if args.arms is None or name in args.arms)


def _row(case: AttentionCase, mode: str, arm: str, form: str | None, **values: Any) -> measure.Row:
    return measure.row(
        arm=arm,
        visual_tokens=case.visual,
        kept=1.0 if arm == "dense" else case.kept,
        granularity=None if arm == "dense" else case.granularity,
        dtype=case.dtype,
        device=case.device,
        text_tokens=case.text,
        mode=mode,
        form=form,
        heads=case.heads,
        kv_heads=case.kv_heads,
        head_dim=case.head_dim,
        **values,
    )


def _unmeasured(args: argparse.Namespace, case: AttentionCase, note: str) -> Iterator[measure.Row]:
    for mode in (FORWARD, BACKWARD):
        for arm, form in _arms(args):
            yield _row(case, mode, arm, form, note=note)


def _measured(args: argparse.Namespace, case: AttentionCase, time_is_up: Callable[[], bool]) -> Iterator[measure.Row]:
    import torch
    from tqdm import tqdm

    torch.manual_seed(0)
    inputs = case.tensors()
    todo = [(mode, arm, form) for mode in (FORWARD, BACKWARD) for arm, form in _arms(args)]
    for mode, arm, form in (bar := tqdm(todo, leave=False)):
        bar.set_description(f"{case.device}, T {case.text}, N_v {case.visual}, {mode}, {form or arm}")
        values: dict[str, Any] = {"note": case.refusal(arm, gradients=mode == BACKWARD)}
        if values["note"] is None and time_is_up():
            values = {"note": measure.NO_TIME_LEFT}
        elif values["note"] is None:
            try:
                values = _figures(case, arm, form, mode, inputs, args.repeats)
            except torch.OutOfMemoryError:
                values = {"note": "out of memory"}
        yield _row(case, mode, arm, form, **values)


def _figures(
    case: AttentionCase, arm: str, form: str | None, mode: str, inputs: tuple[torch.Tensor, ...], repeats: int
) -> dict[str, Any]:
    """What is measured of one arm."""
    import torch

    from cambrian_gaze.bench.attention_cases import gradient_error, output_error

    device = torch.device(case.device)
    if mode == FORWARD:
        with torch.no_grad():
            call, prepare, selection = case.arm(arm, form, inputs)
            error = output_error(case, inputs, call(), selection())
            figures = _time(call, prepare, device, repeats)
    else:
        inputs = tuple(x.detach().requires_grad_() for x in inputs)
        forward, prepare, selection = case.arm(arm, form, inputs)
        weight = torch.randn_like(inputs[0])

        def call() -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(forward(), inputs, weight)

        fits = case.heads * case.length**2 <= GRADIENT_PAIRS[case.device]
        error = gradient_error(case, inputs, weight, call(), selection()) if fits else None
        figures = _time(call, prepare, device, repeats)
    return {"max_error": error, **figures}


def _time(call: Any, prepare: Any, device: torch.device, repeats: int) -> dict[str, Any]:
    return {
        "median_us": measure.median_us(call, device, warmup=1, repeats=repeats),
        "peak_bytes": measure.peak_bytes(call, device),
        "prepare_us": None if prepare is None else measure.median_us(prepare, device, warmup=1, repeats=3),
    }
