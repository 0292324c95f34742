"""Backends that are wrong, fail, or are slow or fast, and a clock that says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cambrian_gaze.attention import BACKENDS, Backend
from cambrian_gaze.attention.backend import REFERENCE
from cambrian_gaze.attention.masked import MaskedAttention
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from tests._layouts import build
from tests.attention._run import context

CPU = torch.device("cpu")
LAYOUT_CONFIG = GazeConfig(image=RegionBudget((1, 2, 2), top_k=2), num_context_tokens=1)
ROW = [("text", (2,)), ("image", (1, 4, 6)), ("text", (5,)), ("image", (1, 4, 4)), ("text", (4,))]


def few_tokens(config: GazeConfig, rows: int = 1):
    """A context of some tokens with two images."""
    return context(build([[ROW]] * rows, config).layout(), config)


class ToyClock:
    """Runs what it is to time, and says how long the toy that ran takes."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.dtypes: set[torch.dtype] = set()
        self.layers: set[int] = set()
        self.configured: set[str] = set()
        self.us = {REFERENCE: 100.0, "slow": 900.0}

    def time(self, call, device) -> float:
        call()
        return self.us.get(self.ran[-1], 10.0)


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * 1.15


@dataclass
class Toy:
    """What a toy prepares: what `masked` does, and what becomes of it."""

    whole: MaskedAttention
    change: Callable[..., torch.Tensor]

    def attend(self, *args):
        return self.change(self.whole, *args)


def toys(clock: ToyClock, names: list[str]) -> dict[str, Backend]:
    """`masked` and the toys of these names; all compute what `masked` computes, but for what their name says."""

    def toy(name: str) -> Backend:
        calls: list[int] = []

        def prepare(ctx):
            clock.ran.append(name)
            clock.configured.add(ctx.config.backend)
            return Toy(MaskedAttention.of(ctx), attend)

        def attend(whole, q, k, v, ctx, layer, scaling, dropout):
            clock.ran.append(name)
            clock.dtypes |= {x.dtype for x in (q, k, v)}
            clock.layers.add(layer)
            calls.append(layer)
            if name == "raises":
                raise NotImplementedError("no such\n kernel")
            if name == "out of memory":
                raise torch.OutOfMemoryError("CUDA out of memory")
            if name == "fails when timed" and len(calls) > 1:
                raise RuntimeError("the second call")
            if name == "wrong gradient":
                k = _WrongGradient.apply(k)
            if name == "leaks a region":
                told, mine = type(ctx).choose, ctx

                def choose(self, *args):
                    regions = told(self, *args).clone()
                    regions[..., -1] = regions[..., 0]
                    return regions

                type(mine).choose = choose
                try:
                    return MaskedAttention.of(ctx).attend(q, k, v, ctx, layer, scaling, dropout)
                finally:
                    type(mine).choose = told
            out = whole.attend(q, k, v, ctx, layer, scaling, dropout)
            if name == "wrong":
                out = out * 1.1
            if name == "wrong in a row":
                wrong = torch.ones(out.shape[2], 1, dtype=out.dtype)
                wrong[len(wrong) // 2] = 1.1
                out = out * wrong
            if name == "not finite":
                out = out / 0 * 0
            if name == "draws random numbers":
                torch.rand(3)
            if name == "wrong with many regions" and ctx.config.min_keep_ratio:
                out = out * 1.1
            return out

        return Backend(
            name,
            prepare,
            lambda config, device, dtype: "not here" if name == "refuses" else None,
            forward_only=frozenset({"cpu"} if name == "forward only" else ()),
        )

    reference = toy(REFERENCE)
    assert reference.name in BACKENDS
    return {REFERENCE: reference, **{name: toy(name) for name in names}}
