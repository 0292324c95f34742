"""`backend: auto`. On a CPU it is `masked`. On a GPU the backends that accept a configuration are tried once, on shapes
of the run's own (`trial.py`): what disagrees with `masked` or does not fit is dropped, of the others the fastest is
taken, the table is logged, and the outcome is kept (`kept.py`) for the next run.

A training run has one choice, made at its first step; its evaluation takes the same. Under several ranks
the first one decides and tells the others. Without gradients there is a choice per class of lengths.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from cambrian_gaze.attention import kept, measure
from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.trial import REFERENCE, Heads, Outcome, fastest, try_all
from cambrian_gaze.gaze.config import GazeConfig

if TYPE_CHECKING:
    from cambrian_gaze.attention.registry import Backend

logger = logging.getLogger(__name__)

TRIED_ON = {"cuda"}
"""Device types on which backends are tried. Elsewhere `masked` is taken at once: on a CPU nothing else is as fast."""

FLOOR = 0.9
"""Share of the regions at which backends must agree, and fit, too where Progressive TopK begins with most of them."""

COLUMNS = {
    "arm": "backend",
    "median_us": "µs per layer",
    "prepare_us": "once per forward, µs",
    "max_error": "row error",
    "note": "note",
}

Ask = Callable[[Callable[[], str | None]], str | None]
"""What the function returns on the first rank, on all ranks."""

_choices: dict[str, str] = {}
"""This process's, by class of calls."""

_ask: Ask | None = None


@contextlib.contextmanager
def asking(ask: Ask | None) -> Iterator[None]:
    """Within, all ranks make the same forward calls of a training step, and can wait for the first one's choice.
    Elsewhere a process among several takes `masked` until that has been made."""
    global _ask
    before, _ask = _ask, ask
    try:
        yield
    finally:
        _ask = before


def forget() -> None:
    """Forget this process's choices; files stay."""
    _choices.clear()


@torch.compiler.disable
def choose(
    ctx: GazeContext, device: torch.device, dtype: torch.dtype, heads: Heads | None, backends: Mapping[str, Backend]
) -> str:
    """The name of the backend for this forward call.

    Args:
        dtype: of the attention, see `registry.computed_in`.
        heads: the decoder's, of all ranks of a sequence-parallel group; None: not known, so that nothing can be tried.
    """
    if device.type not in TRIED_ON or heads is None or heads.dropout:
        return REFERENCE  # the only one with attention dropout
    # There is something to gain where queries route, and keys that a cache has reordered are by rows.
    if _at_its_budget(ctx.config).is_dense or ctx.is_step or ctx.reads_cache:
        return REFERENCE
    name = _of_routing_call(ctx, device, dtype, heads, backends)
    return REFERENCE if ctx.config.is_dense else name


def _of_routing_call(
    ctx: GazeContext, device: torch.device, dtype: torch.dtype, heads: Heads, backends: Mapping[str, Backend]
) -> str:
    training = torch.is_grad_enabled()
    shared = 1 if ctx.shards is None else ctx.shards.group.size
    heads = Heads(heads.query // shared, heads.kv // shared, heads.dim)
    of_run = json.dumps(call_class(ctx, device, dtype, heads, gradients=True, lengths=False))
    if of_run in _choices:
        return _choices[of_run]
    alone = not dist.is_initialized() or dist.get_world_size() == 1
    if not training and not alone:
        return REFERENCE

    def decide() -> str | None:
        if not ctx.layout.num_regions or ctx.key_layout is not ctx.layout:
            return None
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return None
        return _decide(ctx, device, dtype, heads, backends, training)

    if training:
        if not alone and _ask is None:
            return REFERENCE
        name = decide() if alone else _ask(decide)
        if name is not None:
            _choices[of_run] = name
        return name or REFERENCE
    of_call = json.dumps(call_class(ctx, device, dtype, heads, gradients=False))
    if of_call not in _choices and (name := decide()) is not None:
        _choices[of_call] = name
    return _choices.get(of_call, REFERENCE)


def _decide(
    ctx: GazeContext,
    device: torch.device,
    dtype: torch.dtype,
    heads: Heads,
    backends: Mapping[str, Backend],
    gradients: bool,
) -> str:
    """By what is kept, else by trial."""
    candidates = {name: backend for name, backend in backends.items() if not backend.only_for_tests}
    key = call_class(ctx, device, dtype, heads, gradients=gradients)
    outcomes, origin = kept.read(key), f"kept in {kept.place(key)}"
    best = None if outcomes is None else fastest(outcomes)
    if best is None or best.name not in candidates or candidates[best.name].refuses(ctx.config, device, dtype):
        try:
            at_budget = dataclasses.replace(ctx, config=_at_its_budget(ctx.config))
            floor = FLOOR if key["progressive"] else None
            outcomes = try_all(at_budget, heads, device, dtype, candidates, gradients=gradients, floor=floor)
        except torch.OutOfMemoryError:
            outcomes = [Outcome(REFERENCE, reason="out of memory")]
        best = fastest(outcomes)
        path = kept.write(key, outcomes) if best is not None else None
        origin = f"tried now{'' if path is None else f', kept in {path}'}"
    name = REFERENCE if best is None else best.name
    batch, length = ctx.layout.shape
    logger.info(
        "attention backend: %s (auto, for %s on %s, %d × %d tokens, %s; %s)\n%s",
        name,
        dtype,
        key["device"],
        batch,
        length,
        "training" if gradients else "without gradients",
        origin,
        measure.markdown_table(rows_of(outcomes, best), COLUMNS),
    )
    return name


def rows_of(outcomes: list[Outcome], best: Outcome | None) -> list[dict[str, Any]]:
    """What stands in the columns of `COLUMNS`."""
    return [
        {
            "arm": o.name,
            "median_us": o.layer_us,
            "prepare_us": o.prepare_us,
            "max_error": o.error,
            "note": "taken" if o is best else o.reason,
        }
        for o in outcomes
    ]


def call_class(
    ctx: GazeContext,
    device: torch.device,
    dtype: torch.dtype,
    heads: Heads,
    *,
    gradients: bool,
    lengths: bool = True,
) -> dict[str, Any]:
    """What calls have in common for which one choice holds, in plain JSON types. Lengths are rounded up to powers of
    two; they are the host's, so that no device is waited for."""
    batch, length = ctx.layout.shape
    sizes = {"rows": batch, "tokens": length, "regions": ctx.layout.num_regions} if lengths else {}
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else measure.cpu_name(),
        "dtype": str(dtype).removeprefix("torch."),
        "heads": list(heads),
        "selection": _selection(ctx.config),
        "lengths": {name: 1 << max(0, size - 1).bit_length() for name, size in sizes.items()},
        "gradients": gradients,
        "progressive": lengths and ctx.config.min_keep_ratio > 0,
        "versions": kept.versions(),
    }


@functools.lru_cache(maxsize=256)
def _selection(config: GazeConfig) -> str:
    """Options that decide what is computed. The schedule changes `min_keep_ratio` at nearly every step of training."""
    values = config.to_dict()
    for name in ("backend", "schedule", "min_keep_ratio", "dense_layers"):
        del values[name]
    return json.dumps(values, sort_keys=True)


@functools.lru_cache(maxsize=256)
def _at_its_budget(config: GazeConfig) -> GazeConfig:
    """As it is when Progressive TopK has ended: that is timed, and decides."""
    return dataclasses.replace(config, min_keep_ratio=0.0)
