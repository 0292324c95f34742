"""Attention backends tried side by side on random tensors of given shapes: which agree with `masked`, and how fast they
are. `auto.py` decides from it, `bench attention --choose` shows it.

All are handed the regions that one of them chose, so that a near-tie, which any rounding may flip, is not taken for a
defect; what they compute from these must agree row by row. When they are timed each chooses for itself.

Shapes: B rows, H query heads, G KV heads, S tokens, D head size, T queries that choose, K regions of each.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cambrian_gaze import measure
from cambrian_gaze.attention.backend import REFERENCE, Backend
from cambrian_gaze.attention.context import GazeContext, Prepared
from cambrian_gaze.gaze.layout import PAD

TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""By dtype, the largest `row_error` of outputs and of dq, dk and dv. Two right backends round differently: plain torch
and SDPA on a CPU by 1.4e-5 in fp32 and 1.2e-2 in bf16 (1,152 visual tokens)."""

SECONDS = 60.0
"""No further backend is begun after it. Compiling counts, and is most of it the first time."""

LAYERS = 32
"""Of a decoder: among so many is shared what is derived from the layout once per forward call."""

NO_TIME_LEFT = "no time left of {:.0f} s"

Timer = Callable[[Callable[[], object], torch.device], float]
"""(call, device) → µs of one call."""


class Heads(NamedTuple):
    """A decoder layer's attention."""

    query: int
    """H."""
    kv: int
    """G."""
    dim: int
    """D."""
    dropout: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What became of one backend."""

    name: str
    error: float | None = None
    """Largest `row_error` against the reference; None: it did not come to that, or is the reference."""
    layer_us: float | None = None
    """Median time of one layer, backward pass included where gradients are wanted; None: it was dropped."""
    prepare_us: float | None = None
    """The same of what is derived once per forward call."""
    reason: str | None = None
    """Why it was dropped."""
    transient: bool = False
    """Whether it may be otherwise next time: memory or time did not suffice, or it failed."""

    @property
    def cost_us(self) -> float | None:
        """µs per layer of a decoder."""
        return None if self.layer_us is None else self.layer_us + self.prepare_us / LAYERS


@dataclass(frozen=True)
class Timing:
    """How trials are timed, and how long they may take."""

    seconds: float = SECONDS
    """No further backend is begun after it."""
    timer: Timer | None = None
    """Default: the median of a few calls."""
    now: Callable[[], float] = time.monotonic
    """The clock that `seconds` is read from."""


def fastest(outcomes: list[Outcome]) -> Outcome | None:
    """The one that `auto` takes; None where all were dropped."""
    return min((o for o in outcomes if o.cost_us is not None), key=lambda o: o.cost_us, default=None)


def try_all(
    ctx: GazeContext,
    heads: Heads,
    device: torch.device,
    dtype: torch.dtype,
    candidates: Mapping[str, Backend],
    *,
    gradients: bool,
    floor: float | None = None,
    timing: Timing | None = None,
) -> list[Outcome]:
    """An outcome per candidate, the reference's first. The state of random numbers stays as it is, and nothing of what
    was computed stays in memory.

    Args:
        ctx: layouts and options of a call without a cache, in a layer that routes; its keys are its queries.
        floor: `min_keep_ratio` under which they must agree, and fit, as well as at their budget.
        candidates: by name, the reference among them; those that refuse the configuration say so in their outcome.

    Raises: RuntimeError where a candidate left the device in a state in which nothing runs any more.
    """
    timing = timing or Timing()
    end, timer = timing.now() + timing.seconds, timing.timer or _median
    # `dtype` is what it comes to under autocast.
    plainly = torch.autocast(device.type, enabled=False), torch.set_grad_enabled(gradients)
    generators = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with plainly[0], plainly[1], generators:
        trial = _Trial(ctx, heads, device, dtype, gradients, floor)
        outcomes = [trial.outcome(candidates[REFERENCE], timer)]
        if outcomes[0].reason is None:
            for name, backend in candidates.items():
                if name != REFERENCE:
                    late = Outcome(name, reason=NO_TIME_LEFT.format(timing.seconds), transient=True)
                    outcomes.append(late if timing.now() > end else trial.outcome(backend, timer))
    del trial
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return outcomes


def _median(call: Callable[[], object], device: torch.device) -> float:
    first = measure.median_us(call, device, warmup=0, repeats=1)
    return first if first > 1e6 else measure.median_us(call, device, warmup=0, repeats=5, seconds=1.0)


class _Trial:
    """The tensors, and what the reference makes of them."""

    def __init__(
        self,
        ctx: GazeContext,
        heads: Heads,
        device: torch.device,
        dtype: torch.dtype,
        gradients: bool,
        floor: float | None,
    ) -> None:
        ctx = dataclasses.replace(ctx, cache=None, recorder=None, mass=None, saved=None, shards=None, hidden=None)
        self.ctx, self.device, self.dtype, self.gradients = ctx, device, dtype, gradients
        self.scaling = heads.dim**-0.5
        self.layer = next(n for n in range(len(ctx.config.dense_layers) + 1) if n not in ctx.config.dense_layers)
        generator = torch.Generator(device).manual_seed(0)
        batch, length = ctx.layout.shape
        draws = [
            torch.randn(batch, n, length, heads.dim, generator=generator, device=device, dtype=dtype)
            for n in (heads.query, heads.kv, heads.kv, heads.query)
        ]
        self.real = ctx.layout.role != PAD
        self.weight = draws.pop() * self.real[:, None, :, None]
        self.inputs = tuple(x.requires_grad_(gradients) for x in draws)
        told = [ctx] if floor is None else [ctx, self._under(min_keep_ratio=floor)]
        self.told = [_Told.of(c, self.layer, *(x.detach() for x in draws[:2]), self.scaling) for c in told]
        self.expected: list[tuple[Tensor, ...]] = []

    def outcome(self, backend: Backend, timer: Timer) -> Outcome:
        """Compare a backend with the reference, whose results the first call leaves behind; then time it."""
        name, device = backend.name, self.device
        reason = backend.refuses(self.ctx.config, device, self.dtype)
        if self.gradients and device.type in backend.forward_only:
            reason = f"no gradients on {device.type}"
        if reason is not None:
            return Outcome(name, reason=reason)
        error = None
        try:
            if name == REFERENCE:
                self.expected = [self._run(*self._prepared(backend, told)) for told in self.told]
            else:
                error = max(self._error(backend, *each) for each in zip(self.told, self.expected, strict=True))
                if not error <= TOLERANCE[self.dtype]:
                    reason = f"differs from {REFERENCE} by {error:.1e} of a row, more than {TOLERANCE[self.dtype]:.0e}"
                    return Outcome(name, error if math.isfinite(error) else None, reason=reason)
            ctx, prepared = self._prepared(backend, self.ctx)
            layer_us = timer(lambda: self._run(ctx, prepared), device)
            return Outcome(name, error, layer_us, timer(lambda: self._prepared(backend, self.ctx), device))
        except torch.OutOfMemoryError:
            reason = "out of memory"
        except Exception as failure:  # whatever it is, another backend runs
            reason = " ".join(f"{type(failure).__name__}: {failure}".split())[:200]
        self._check_device(name, reason)
        return Outcome(name, error, reason=reason, transient=True)

    def _error(self, backend: Backend, told: _Told, expected: tuple[Tensor, ...]) -> float:
        results = self._run(*self._prepared(backend, told))
        return max(row_error(a, b, self.real) for a, b in zip(results, expected, strict=True))

    def _under(self, **options: object) -> GazeContext:
        return dataclasses.replace(self.ctx, config=self.ctx.config.override(**options))

    def _prepared(self, backend: Backend, ctx: GazeContext) -> tuple[GazeContext, Prepared]:
        ctx = dataclasses.replace(ctx, config=ctx.config.override(backend=backend.name))
        return ctx, backend.prepare(ctx)

    def _run(self, ctx: GazeContext, prepared: Prepared) -> tuple[Tensor, ...]:
        """Output [B, H, S, D]; where wanted, dq, dk and dv too."""
        out = prepared.attend(*self.inputs, ctx, self.layer, self.scaling, 0.0)
        if not self.gradients:
            return (out,)
        return out.detach(), *torch.autograd.grad(out, self.inputs, self.weight)

    def _check_device(self, name: str, reason: str) -> None:
        """Wait for the kernels, which run later than they are launched: their errors must show here, not in the middle
        of a run."""
        if self.device.type != "cuda":
            return
        try:
            torch.cuda.synchronize(self.device)
        except RuntimeError as error:
            raise RuntimeError(
                f"attention backend {name!r}, which auto tried, failed ({reason}) and left the GPU unusable; name a "
                f"backend, such as {REFERENCE!r}, and start again"
            ) from error
        torch.cuda.empty_cache()


def row_error(got: Tensor, want: Tensor, real: Tensor) -> float:
    """Largest ‖got − want‖ / ‖want‖ of a row of D numbers; inf where something is not finite.

    Rows are judged by themselves, since those of text are far smaller than the first ones of a sample; what is smaller
    than a quarter of the median row, such as dq of a query that sees itself alone, is rounding, and judged by that.

    Args:
        got, want: [B, H or G, S, D]; real: bool [B, S], rows that mean something.
    """
    wide = torch.promote_types(want.dtype, torch.float32)
    sizes, differences = [], []
    for a, b in zip(got.detach().unbind(1), want.detach().unbind(1), strict=True):  # a head at a time is held wide
        a, b = a.to(wide)[real], b.to(wide)[real]
        sizes.append(b.norm(dim=-1))
        differences.append((a - b).norm(dim=-1))
    size, difference = torch.cat(sizes), torch.cat(differences)
    if not size.numel():
        return 0.0
    if not bool(difference.isfinite().all()):
        return torch.inf
    scale = size.clamp(min=max(float(size.median()) / 4, torch.finfo(wide).tiny))
    return float((difference / scale).max())


@dataclass
class _Told(GazeContext):
    """A context that has been told what to choose. Its copies for some of the queries find their choice by token."""

    regions: Tensor | None = None
    """int64 [B, H or G, T, K], -1 for none."""
    place: Tensor | None = None
    """int64 [B, S]: which of the T queries a token is; -1 for those that do not route."""

    @staticmethod
    def of(ctx: GazeContext, layer: int, q: Tensor, k: Tensor, scaling: float) -> _Told:
        """`ctx`, told what it would choose itself."""
        router, tokens = ctx.of_routing_queries()
        mine = q.gather(2, tokens[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3]))
        regions = router.choose(layer, mine, k, ctx.key_layout.region, scaling)
        number = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        place = torch.full_like(ctx.layout.index, -1).scatter_(1, tokens, number)
        own = {f.name: getattr(ctx, f.name) for f in dataclasses.fields(GazeContext) if f.init}
        return _Told(**own, regions=regions, place=place)

    def choose(self, layer: int, q: Tensor, k: Tensor | None, key_region: Tensor, scaling: float) -> Tensor:
        place = self.place.gather(1, self.layout.index).masked_fill(self.layout.role == PAD, -1)
        at = place.clamp(min=0)[:, None, :, None].expand(-1, self.regions.shape[1], -1, self.regions.shape[3])
        return self.regions.gather(2, at).masked_fill((place < 0)[:, None, :, None], -1)
