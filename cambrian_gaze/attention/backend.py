"""`Backend`: what one way to compute gaze attention declares. `registry.py` has them by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

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
