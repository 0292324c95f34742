"""The attention backends by name, and attention by the one that serves a call. Each declares what it can do and refuses
loudly; `choice/auto.py` picks one where none is named, and says which.
"""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cambrian_gaze.attention.backend import REFERENCE, Backend
from cambrian_gaze.attention.choice import auto
from cambrian_gaze.attention.choice.trial import Heads
from cambrian_gaze.attention.context import GazeContext, Prepared
from cambrian_gaze.attention.decode.triton import TritonStep
from cambrian_gaze.attention.flex import FlexBlocks
from cambrian_gaze.attention.flex import refuses as flex_refuses
from cambrian_gaze.attention.masked import MaskedAttention
from cambrian_gaze.attention.policy.attention import PolicyAttention
from cambrian_gaze.attention.triton.backend import TritonAttention
from cambrian_gaze.attention.triton.backend import refuses as triton_refuses
from cambrian_gaze.attention.varlen.backend import FlashVarlen, PlainVarlen, refuses_plainly
from cambrian_gaze.attention.varlen.backend import refuses as varlen_refuses
from cambrian_gaze.attention.weights import record_weights
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.plugins import registers, remedy

logger = logging.getLogger(__name__)

AUTO = "auto"
"""The name that stands for whichever backend is fastest."""

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(REFERENCE, MaskedAttention.of),
        Backend("flex", FlexBlocks.of, flex_refuses, forward_only=frozenset({"cpu"})),
        Backend("flash_varlen", FlashVarlen.of, varlen_refuses),
        Backend("varlen_reference", PlainVarlen.of, refuses_plainly, only_for_tests=True),
        Backend("triton", TritonAttention.of, triton_refuses, decode=TritonStep.of),
    )
}
"""By name, in the order in which `auto` tries them. `register_backend` adds to it."""


@registers("attention backend")
def register_backend(backend: Backend) -> Backend:
    """Make a backend known by its name in this process: `GazeConfig(backend=name)` then takes it, and `auto` tries it
    on a GPU beside the others. No file of the package is touched.

    A backend derives what it needs from the layouts once per forward call, and attends with that in each layer:

        @dataclass(frozen=True)
        class UnderAMask:
            free: Tensor  # bool [B, 1, Q, S]: pairs that are seen whatever is chosen
            choice: Tensor  # bool [B, 1, Q, S]: pairs that are seen where the key's region is chosen

            @classmethod
            def of(cls, ctx):
                seen = structure(ctx.layout, ctx.key_layout, ctx.config)[:, None]
                choice = routable(ctx.layout, ctx.key_layout, ctx.config)[:, None]
                return cls(seen & ~choice, seen & choice)

            def attend(self, q, k, v, ctx, layer, scaling, dropout):
                mask, region = self.free | self.choice, ctx.key_layout.region
                if ctx.config.routes(layer) and ctx.layout.num_regions:
                    regions = ctx.choose(layer, q.detach(), k, region, scaling)  # int64 [B, H or G, Q, K]
                    chosen = as_mask(regions, ctx.layout.num_regions)  # bool [B, H or G, Q, R]
                    at_key = region.clamp(min=0)[:, None, None].expand(*chosen.shape[:3], -1)
                    mask = self.free | (self.choice & chosen.gather(-1, at_key))
                heads = q.shape[1]
                k, v, mask = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v, mask))
                return scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)

        register_backend(Backend("under_a_mask", UnderAMask.of))

    (`structure` and `routable` are of `cambrian_gaze.gaze.visibility`, `as_mask` of `cambrian_gaze.gaze.routing`.) What
    it cannot run it says in `Backend.refuses`. Decoding steps go the way of the other backends, unless `Backend.decode`
    is given. A call with `ctx.recorder` wants counts, which `counted.CountedRows` makes of the choice.

    What `auto` found is kept by name: after a change of the backend's code empty the folder `attention` of the cache.

    Returns: the backend.

    Raises: ValueError for a name that is taken.
    """
    if backend.name == AUTO or backend.name in BACKENDS:
        raise ValueError(f"there is an attention backend {backend.name!r} already; give yours another name")
    BACKENDS[backend.name] = backend
    return backend


def pick(config: GazeConfig, device: torch.device, dtype: torch.dtype) -> Backend:
    """The backend that `config.backend` names; for "auto" `masked`, which is what it takes where nothing was tried.

    Raises: ValueError for an unknown name, or for one that refuses, with its reason. Nothing else is used instead.
    """
    if config.backend == AUTO:
        return BACKENDS[REFERENCE]
    if config.backend not in BACKENDS:
        nearest = difflib.get_close_matches(config.backend, BACKENDS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(
            f"unknown attention backend {config.backend!r}{hint}; known: auto, {', '.join(BACKENDS)}; "
            f"{remedy('attention backend', config.backend, 'register_backend')}"
        )
    reason = BACKENDS[config.backend].refuses(config, device, dtype)
    if reason:
        raise ValueError(f"attention backend {config.backend!r} cannot run here: {reason}")
    return BACKENDS[config.backend]


@lru_cache(maxsize=64)
def _say_pick(name: str, device_type: str, dtype: torch.dtype) -> None:
    """Once per pick."""
    logger.info("attention backend: %s (auto, for %s on %s)", name, dtype, device_type)


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
            k = torch.cat([pages.page_keys.flatten(2, 3), pages.text_context_keys], dim=2)
            v = torch.cat([pages.page_values.flatten(2, 3), pages.text_context_values], dim=2)
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


def prepare(ctx: GazeContext, device: torch.device, dtype: torch.dtype, heads: Heads | None = None) -> GazeContext:
    """Pick the backend and let it derive what it needs from the layouts, once for all layers.

    Args:
        dtype: of the tokens.
        heads: the decoder's. Without them `auto` has nothing to try backends on, and takes `masked`.

    Returns: `ctx`, whose `prepared` is set.
    """
    if ctx.policy is not None:
        ctx.prepared = PolicyAttention.of(ctx)
        return ctx
    if ctx.config.backend != AUTO:
        backend = pick(ctx.config, device, computed_in(device, dtype))
    elif ctx.is_step:  # too short to try anything on
        backend = BACKENDS[REFERENCE]
    else:
        dtype = computed_in(device, dtype)
        backend = BACKENDS[auto.choose(ctx, device, dtype, heads, BACKENDS)]
        _say_pick(backend.name, device.type, dtype)
    ctx.prepared = backend.decode(ctx) if ctx.is_step else PreparedBackend(backend, backend.prepare(ctx))
    return ctx


def attend(
    q: Tensor, k: Tensor, v: Tensor, ctx: GazeContext, *, layer: int, scaling: float, dropout: float = 0.0
) -> Tensor:
    """Gaze attention of one layer (paper, eq. 4).

    Args:
        q: [B, H, Q, D]; k, v: [B, G, Q, D], this call's tokens. Earlier ones are read from `ctx.cache`.
        ctx: as `prepare` returned it.

    Returns: [B, H, Q, D].

    Raises: ValueError where the backend has no gradients on this device and the call needs them.
    """
    out = ctx.prepared.attend(q, k, v, ctx, layer, scaling, dropout)
    if ctx.recorder is not None and ctx.recorder.weights is not None:
        record_weights(ctx, layer, q, k, scaling)
    return out
