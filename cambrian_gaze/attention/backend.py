"""`Backend`: what one way to compute gaze attention declares. `registry.py` has them by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cambrian_gaze.attention.context import GazeContext, Prepared
from cambrian_gaze.attention.decode.step import DecodingStep
from cambrian_gaze.gaze.config import GazeConfig

REFERENCE = "masked"
"""What the other backends are held against: plain SDPA, which the tests hold against the oracle."""


def refuses_nothing(config: GazeConfig, device: torch.device, dtype: torch.dtype) -> str | None:
    """`Backend.refuses` of one that runs everything everywhere."""
    return None


@dataclass(frozen=True)
class Backend:
    """One way to compute gaze attention over the keys that it is handed. See `registry.register_backend`."""

    name: str

    prepare: Callable[[GazeContext], Prepared]
    """Called once per forward call, before the layers run: what it derives from the layouts. Its `attend` then gets
    q [B, H, Q, D] and k, v [B, G, S, D], whose tokens are those of `ctx.layout` and `ctx.key_layout`."""

    refuses: Callable[[GazeConfig, torch.device, torch.dtype], str | None] = refuses_nothing
    """Why it cannot run this configuration on this device and dtype, or None."""

    decode: Callable[[GazeContext], Prepared] = DecodingStep.of
    """`prepare` of a decoding step (`ctx.is_step`), whose keys and values are in `ctx.cache` alone."""

    forward_only: frozenset[str] = frozenset()
    """Device types on which it has no gradients. It refuses a call that needs them, and `auto` passes over it."""

    only_for_tests: bool = False
    """Taken by name alone."""


@dataclass(frozen=True)
class PreparedBackend:
    """A backend that was chosen for a forward call, and what it prepared."""

    backend: Backend
    own: Prepared

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, ctx: GazeContext, layer: int, scaling: float, dropout: float
    ) -> Tensor:
        """Hand the backend its keys in one dtype.

        Raises: ValueError where it has no gradients on this device and the call needs them.
        """
        if ctx.reads_cache:
            pages = ctx.cache.layers[layer]
            k = torch.cat([pages.page_keys.flatten(2, 3), pages.flat_keys], dim=2)
            v = torch.cat([pages.page_values.flatten(2, 3), pages.flat_values], dim=2)
        name, kind = self.backend.name, q.device.type
        if kind in self.backend.forward_only and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
            raise ValueError(
                f"attention backend {name!r} has no gradients on {kind}; use torch.no_grad(), or another backend"
            )
        if name != REFERENCE:
            # A norm under autocast leaves q and k in fp32 beside v in bf16. SDPA makes one of them, kernels do not.
            q, k, v = (x.to(computed_in(x.device, x.dtype)) for x in (q, k, v))
        return self.own.attend(q, k, v, ctx, layer, scaling, dropout)


def computed_in(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The dtype of attention between tokens of `dtype`: autocast's where that is on, as for SDPA."""
    kind = device.type
    if dtype != torch.float64 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return dtype
