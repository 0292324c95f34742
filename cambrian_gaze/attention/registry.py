"""Attention backends: each declares what it can do and refuses loudly. `choice/auto.py` picks one and says which."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cambrian_gaze.attention import flex, masked
from cambrian_gaze.attention.choice import auto
from cambrian_gaze.attention.choice.trial import REFERENCE, Heads
from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.decode import step as decode
from cambrian_gaze.attention.triton import backend as triton_regions
from cambrian_gaze.attention.varlen import backend as flash_varlen
from cambrian_gaze.gaze.config import GazeConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backend:
    """One way to compute gaze attention over the keys that it is handed."""

    name: str

    prepare: Callable[[GazeContext], None]
    """Fill `ctx.prepared` once per forward call."""

    attend: Callable[[Tensor, Tensor, Tensor, GazeContext, int, float, float], Tensor]
    """(q [B, H, Q, D], k, v [B, G, S, D], ctx, layer, scaling, dropout) → [B, H, Q, D], with gradients."""

    refuses: Callable[[GazeConfig, torch.device, torch.dtype], str | None]
    """Why it cannot run this configuration on this device and dtype, or None."""

    forward_only: frozenset[str] = frozenset()
    """Device types on which it has no gradients. It refuses a call that needs them, and `auto` passes over it."""

    only_for_tests: bool = False
    """Taken by name alone."""


BACKENDS: dict[str, Backend] = {
    "masked": Backend("masked", masked.prepare, masked.attend, lambda config, device, dtype: None),
    "flex": Backend("flex", flex.prepare, flex.attend, flex.refuses, forward_only=frozenset({"cpu"})),
    "flash_varlen": Backend("flash_varlen", flash_varlen.prepare, flash_varlen.attend, flash_varlen.refuses),
    "varlen_reference": Backend(
        "varlen_reference",
        flash_varlen.prepare,
        flash_varlen.attend_plainly,
        flash_varlen.refuses_plainly,
        only_for_tests=True,
    ),
    "triton": Backend("triton", triton_regions.prepare, triton_regions.attend, triton_regions.refuses),
}
"""By name, in the order in which `auto` tries them."""


def pick(config: GazeConfig, device: torch.device, dtype: torch.dtype) -> Backend:
    """The backend that `config.backend` names; for "auto" `masked`, which is what it takes where nothing was tried.

    Raises: ValueError for an unknown name, or for one that refuses, with its reason. Nothing else is used instead.
    """
    if config.backend == "auto":
        return BACKENDS[REFERENCE]
    if config.backend not in BACKENDS:
        nearest = difflib.get_close_matches(config.backend, BACKENDS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"unknown attention backend {config.backend!r}{hint} known: auto, {', '.join(BACKENDS)}")
    reason = BACKENDS[config.backend].refuses(config, device, dtype)
    if reason:
        raise ValueError(f"attention backend {config.backend!r} cannot run here: {reason}")
    return BACKENDS[config.backend]


@lru_cache(maxsize=64)
def _say_pick(name: str, device_type: str, dtype: torch.dtype) -> None:
    """Once per pick."""
    logger.info("attention backend: %s (auto, for %s on %s)", name, dtype, device_type)


def computed_in(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The dtype of attention between tokens of `dtype`: autocast's where that is on, as for SDPA."""
    kind = device.type
    if dtype != torch.float64 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return dtype


def prepare(ctx: GazeContext, device: torch.device, dtype: torch.dtype, heads: Heads | None = None) -> GazeContext:
    """Pick the backend and let it derive what it needs from the layouts, once for all layers.

    Args:
        dtype: of the tokens.
        heads: the decoder's. Without them `auto` has nothing to try backends on, and takes `masked`.
    """
    if ctx.policy is not None:
        ctx.policy.prepare(ctx)
        return ctx
    dtype = computed_in(device, dtype)
    if ctx.config.backend == "auto":
        ctx.prepared["backend"] = BACKENDS[auto.choose(ctx, device, dtype, heads, BACKENDS)]
        _say_pick(ctx.prepared["backend"].name, device.type, dtype)
    else:
        ctx.prepared["backend"] = pick(ctx.config, device, dtype)
    if ctx.is_step:
        decode.prepare(ctx)
    else:
        ctx.prepared["backend"].prepare(ctx)
    return ctx


def attend(
    q: Tensor, k: Tensor, v: Tensor, ctx: GazeContext, *, layer: int, scaling: float, dropout: float = 0.0
) -> Tensor:
    """Gaze attention of one layer (paper, eq. 4).

    Args:
        q: [B, H, Q, D]; k, v: [B, G, Q, D], this call's tokens. Earlier ones are read from `ctx.cache`.

    Returns: [B, H, Q, D].

    Raises: ValueError where the backend has no gradients on this device and the call needs them.
    """
    if ctx.policy is not None:
        return ctx.policy.attend(q, ctx, layer, scaling)
    if ctx.is_step:
        return decode.attend(q, ctx, layer, scaling)
    if ctx.reads_cache:
        pages = ctx.cache.layers[layer]
        k = torch.cat([pages.page_keys.flatten(2, 3), pages.flat_keys], dim=2)
        v = torch.cat([pages.page_values.flatten(2, 3), pages.flat_values], dim=2)
    backend = ctx.prepared["backend"]
    if q.device.type in backend.forward_only and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise ValueError(
            f"attention backend {backend.name!r} has no gradients on {q.device.type}; "
            "use torch.no_grad(), or another backend"
        )
    if backend.name != REFERENCE:
        # A norm under autocast leaves q and k in fp32 beside v in bf16. SDPA makes one of them, kernels do not.
        q, k, v = (x.to(computed_in(x.device, x.dtype)) for x in (q, k, v))
    return backend.attend(q, k, v, ctx, layer, scaling, dropout)
