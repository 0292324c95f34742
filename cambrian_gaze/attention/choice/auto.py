"""`backend: auto`. On a CPU it is `masked`. On a GPU the backends that accept a configuration are tried once, on shapes
of the run's own (`trial.py`): what disagrees with `masked` or does not fit is dropped, of the others the fastest is
taken, the table is logged, and an outcome that will last is kept (`kept.py`) for the next process.

A training run has one choice (`run_choice.py`), made at its first step that routes; evaluation in it takes the same.
Under several ranks the lowest one that has pictures decides and tells the others. Elsewhere there is a choice per class
of lengths, without gradients from a size on at which there is something to gain.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from cambrian_gaze import measure
from cambrian_gaze.attention.backend import REFERENCE, Backend
from cambrian_gaze.attention.choice import kept, run_choice
from cambrian_gaze.attention.choice.trial import Heads, Outcome, fastest, try_all
from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.gaze.config import GazeConfig

logger = logging.getLogger(__name__)

TRIED_ON = {"cuda"}
"""Device types on which backends are tried. Elsewhere `masked` is taken at once: on a CPU nothing else is as fast."""

FLOOR = 0.9
"""Share of the regions at which backends must agree, and fit, too where Progressive TopK begins with most of them."""

WORTH_TRYING = 8192
"""Tokens of a call without gradients, over all rows, from which on backends are tried: a trial takes seconds,
in the middle of a request, which over few tokens no backend gains back. Set, not measured."""

COLUMNS = {
    "arm": "backend",
    "median_us": "µs per layer",
    "prepare_us": "once per forward, µs",
    "max_error": "row error",
    "note": "note",
}

_choices: dict[str, str] = {}
"""This process's outside of a run, by class of calls."""


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
    if ctx.config.is_dense:  # stage 1, and Progressive TopK before it leaves anything out
        return REFERENCE
    return _of_routing_call(ctx, device, dtype, heads, backends)


def _of_routing_call(
    ctx: GazeContext, device: torch.device, dtype: torch.dtype, heads: Heads, backends: Mapping[str, Backend]
) -> str:
    run, ask = run_choice.current()
    options = json.dumps([str(dtype).removeprefix("torch."), list(heads), _selection(ctx.config)])
    if run is not None and run.names.get(options) in backends:
        return run.names[options]
    alone = not dist.is_initialized() or dist.get_world_size() == 1
    training = torch.is_grad_enabled()
    decide = functools.partial(_decide, ctx, device, dtype, heads, backends, training)
    if run is not None and training:
        name = None
        if alone:
            name = decide() if _can_decide(ctx, device) else None
        elif ask is not None and run.is_due():
            name = ask(decide, _can_decide(ctx, device), device)
        if name is not None:
            run.settle(options, name)
        return name or REFERENCE
    batch, length = ctx.layout.shape
    if not alone or (not training and batch * length < WORTH_TRYING):
        return REFERENCE
    of_call = json.dumps(call_class(ctx, device, dtype, heads, gradients=training))
    if of_call not in _choices and _can_decide(ctx, device):
        _choices[of_call] = decide()
    return _choices.get(of_call, REFERENCE)


def _can_decide(ctx: GazeContext, device: torch.device) -> bool:
    """Whether backends can be tried on this call's layout, here and now."""
    if not ctx.layout.num_regions or ctx.key_layout is not ctx.layout:
        return False
    return device.type != "cuda" or not torch.cuda.is_current_stream_capturing()


def _decide(
    ctx: GazeContext,
    device: torch.device,
    dtype: torch.dtype,
    heads: Heads,
    backends: Mapping[str, Backend],
    gradients: bool,
) -> str:
    """The name of the fastest backend: by the outcome that is kept, else by a trial."""
    candidates = {name: backend for name, backend in backends.items() if not backend.only_for_tests}
    key = call_class(ctx, device, dtype, heads, gradients=gradients)
    outcomes, origin = kept.read(key), f"kept in {kept.place(key)}"
    # Where another backend was registered since, what is kept does not count.
    same = outcomes is not None and {outcome.name for outcome in outcomes} == candidates.keys()
    best = fastest(outcomes) if same else None
    if best is None or candidates[best.name].refuses(ctx.config, device, dtype):
        try:
            at_budget = dataclasses.replace(ctx, config=_at_its_budget(ctx.config))
            floor = FLOOR if key["progressive"] else None
            mine = _of_one_rank(ctx, heads)
            outcomes = try_all(at_budget, mine, device, dtype, candidates, gradients=gradients, floor=floor)
        except torch.OutOfMemoryError:
            outcomes = [Outcome(REFERENCE, reason="out of memory", transient=True)]
        best = fastest(outcomes)
        # What ran out of memory or time, or failed, may not do so in the next process.
        lasts = best is not None and not any(outcome.transient for outcome in outcomes)
        path = kept.write(key, outcomes) if lasts else None
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


def _of_one_rank(ctx: GazeContext, heads: Heads) -> Heads:
    """The heads that one rank of a sequence-parallel group computes."""
    shared = 1 if ctx.shards is None else ctx.shards.group.size
    return Heads(heads.query // shared, heads.kv // shared, heads.dim)


def rows_of(outcomes: list[Outcome], best: Outcome | None) -> list[dict[str, Any]]:
    """The rows of a table with the columns of `COLUMNS`."""
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
    ctx: GazeContext, device: torch.device, dtype: torch.dtype, heads: Heads, *, gradients: bool
) -> dict[str, Any]:
    """The class of a call, in plain JSON types: one outcome holds for all calls of a class. Lengths are rounded up to
    powers of two; the host knows them, so that no device is waited for. With gradients the number of rows counts too,
    since memory grows with it.
    """
    batch, length = ctx.layout.shape
    sizes = {"tokens": length, "regions": ctx.layout.num_regions} | ({"rows": batch} if gradients else {})
    return {
        "device": kept.device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "heads": list(_of_one_rank(ctx, heads)),
        "selection": _selection(ctx.config),
        "lengths": {name: 1 << max(0, size - 1).bit_length() for name, size in sizes.items()},
        "gradients": gradients,
        "progressive": ctx.config.min_keep_ratio > 0,
        "versions": kept.versions(),
    }


@functools.lru_cache(maxsize=256)
def _selection(config: GazeConfig) -> str:
    """The options that decide what is computed, as JSON. `min_keep_ratio` is not among them: the schedule changes it at
    nearly every step of training."""
    values = config.to_dict()
    for name in ("backend", "schedule", "min_keep_ratio", "dense_layers"):
        del values[name]
    return json.dumps(values, sort_keys=True)


@functools.lru_cache(maxsize=256)
def _at_its_budget(config: GazeConfig) -> GazeConfig:
    """The configuration after the end of Progressive TopK. It is timed, and decides."""
    return dataclasses.replace(config, min_keep_ratio=0.0)
