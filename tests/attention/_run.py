"""Run a backend on a layout, and the oracle on the same tensors, once per case."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from cambrian_gaze.attention import BACKENDS, GazeContext, GazeRecorder, attend, prepare
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import PAD, TokenLayout
from cambrian_gaze.gaze.oracle import oracle_attention
from tests._layouts import draw_case, draw_tensors

DIM = 8
SCALING = 0.4
_PLAIN = (GazeConfig(), torch.device("cpu"), torch.float32)
CPU_BACKENDS = [
    name for name, backend in BACKENDS.items() if backend.refuses(*_PLAIN) is None and "cpu" not in backend.forward_only
]
"""With gradients; `flex` has none here and tests of its own."""


def context(
    layout: TokenLayout,
    config: GazeConfig,
    recorder: GazeRecorder | None = None,
    saved: dict | None = None,
    mass: list[Tensor] | None = None,
) -> GazeContext:
    """Everything at once, no cache."""
    return GazeContext(
        config=config,
        layout=layout,
        key_layout=layout,
        recorder=recorder,
        mass=mass,
        saved=saved,
    )


def run(q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout, config: GazeConfig, layer: int = 0, **options) -> Tensor:
    """One attention call [B, H, S, D]. Skips the test where the backend refuses the configuration."""
    reason = BACKENDS[config.backend].refuses(config, q.device, q.dtype) if config.backend in BACKENDS else None
    if reason:
        pytest.skip(f"{config.backend}: {reason}")
    ctx = prepare(context(layout, config, **options), q.device, q.dtype)
    return attend(q, k, v, ctx, layer=layer, scaling=SCALING)


def real(layout: TokenLayout, heads: int) -> Tensor:
    """bool [B, H, S]: outputs that mean something."""
    return (layout.role != PAD)[:, None].expand(-1, heads, -1)


def gradients(out: Tensor, inputs: tuple[Tensor, ...], where: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a fixed random weighting of the outputs at `where`."""
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return torch.autograd.grad((out * weight)[where].sum(), inputs)


@cache
def reference(seed: int, **options):
    """(case, layout, (q, k, v) in fp64, oracle's output, its gradients, its selection) of `draw_case(seed)`."""
    case = draw_case(seed, **options)
    layout = case.batch.layout()
    tensors = tuple(x.requires_grad_() for x in draw_tensors(case, dim=DIM, scaling=SCALING))
    out, selected = oracle_attention(*tensors, layout, case.config, scaling=SCALING)
    grads = gradients(out, tensors, real(layout, case.heads))
    return case, layout, tuple(x.detach() for x in tensors), out.detach(), grads, selected


def refusal(name: str = "flash_varlen", device: str = "cuda", dtype: torch.dtype = torch.bfloat16, **options):
    """Why a backend does not run a `GazeConfig` of these options, or None."""
    return BACKENDS[name].refuses(GazeConfig(**options), torch.device(device), dtype)
