"""What `bench attention` measures: a training sample's layout, random tensors, the arms, and float64 beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cambrian_gaze import measure
from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.registry import BACKENDS, attend, prepare
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.derive import derive_layout
from cambrian_gaze.gaze.layout import IMAGE, TokenLayout
from cambrian_gaze.gaze.routing import as_mask, regions_kept
from cambrian_gaze.gaze.visibility import routable, structure

SIDE, REGION = 24, (1, 6, 6)
DENSE_FORMS = ("enable_gqa", "repeated KV")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHECKED_QUERIES = 64
"""Of the last text queries the outputs are compared with float64."""

Call = Callable[[], Tensor]
Selection = Callable[[], Tensor | None]
"""The regions that the arm chose, int64 [1, H or G, S, K]; None for dense attention."""


@dataclass(frozen=True)
class AttentionCase:
    """One layer over one sample: `lead` text tokens, units of 24×24 visual tokens and 4 context tokens, text."""

    text: int
    visual: int
    heads: int
    kv_heads: int
    head_dim: int
    keep_ratio: float
    granularity: str
    dtype: str
    device: str

    def __post_init__(self) -> None:
        if self.visual % SIDE**2 or self.visual < SIDE**2:
            raise ValueError(f"visual tokens come in units of {SIDE**2} (24×24), got {self.visual}")
        if self.text < 2 or self.heads % self.kv_heads:
            raise ValueError(
                f"need at least 2 text tokens and heads that divide into KV heads, got text {self.text}, "
                f"heads {self.heads}, kv_heads {self.kv_heads}"
            )

    @property
    def config(self) -> GazeConfig:
        """Regions of 6×6, |C|=4, `auto` left to the arm."""
        return GazeConfig(image=RegionBudget(REGION, keep_ratio=self.keep_ratio), head_granularity=self.granularity)

    @cached_property
    def layout(self) -> TokenLayout:
        """Of the whole sample, on the device."""
        return self.derive()

    def derive(self) -> TokenLayout:
        """`layout`, afresh."""
        frames, lead = self.visual // SIDE**2, min(16, self.text // 2)
        unit = [IMAGE] * SIDE**2 + [3] * self.config.num_context_tokens
        types = torch.tensor([[0] * lead + unit * frames + [0] * (self.text - lead)])
        grids = torch.tensor([[1, SIDE, SIDE]] * frames)
        return derive_layout(types, torch.ones_like(types), grids, self.config).to(torch.device(self.device))

    @property
    def length(self) -> int:
        """S."""
        return self.layout.shape[1]

    @property
    def kept(self) -> float:
        """Share of the regions that a query after all units keeps."""
        regions = self.visual // math.prod(REGION)
        return int(regions_kept(torch.tensor(regions), self.config.image, 0.0)) / regions

    @property
    def scaling(self) -> float:
        return self.head_dim**-0.5

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """q [1, H, S, D] and k, v [1, G, S, D], standard normal."""
        q, k, v = (
            torch.randn(1, heads, self.length, self.head_dim, device=self.device, dtype=DTYPES[self.dtype])
            for heads in (self.heads, self.kv_heads, self.kv_heads)
        )
        return q, k, v

    def refusal(self, arm: str, gradients: bool) -> str | None:
        """Why an arm cannot run this, or None."""
        if arm == "dense":
            return None
        backend, device = BACKENDS[arm], torch.device(self.device)
        if device.type in backend.forward_only:
            return f"{'no gradients' if gradients else 'only for tests'} on {device.type}"
        return backend.refuses(self.config.override(backend=arm), device, DTYPES[self.dtype])

    def arm(self, arm: str, form: str | None, inputs: tuple[Tensor, ...]) -> tuple[Call, Call | None, Selection]:
        """(one layer's attention, what is derived once per forward call, the regions chosen)."""
        q, k, v = inputs
        if arm == "dense":
            group = self.heads // self.kv_heads

            def dense() -> Tensor:
                if form == "enable_gqa":
                    return scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scaling, enable_gqa=True)
                wide = (x.repeat_interleave(group, dim=1) for x in (k, v))
                return scaled_dot_product_attention(q, *wide, is_causal=True, scale=self.scaling)

            return dense, None, lambda: None
        config = self.config.override(backend=arm)

        def once() -> GazeContext:
            ctx = GazeContext(config=config, layout=self.layout, key_layout=self.layout)
            return prepare(ctx, q.device, q.dtype)

        ctx = once()

        def chosen() -> Tensor:
            with torch.no_grad():
                return ctx.choose(0, q, k, self.layout.region, self.scaling)

        return lambda: attend(q, k, v, ctx, layer=0, scaling=self.scaling), once, chosen


def allowed_pairs(case: AttentionCase, regions: Tensor | None, start: int) -> Tensor:
    """bool [H or G or 1, S - start, S]: what the queries from `start` on see; dense and causal without `regions`."""
    layout = case.layout
    if regions is None:
        return torch.ones(case.length, case.length, dtype=torch.bool, device=case.device).tril()[None, start:]
    rows = layout.tokens(slice(start, None))
    selected = as_mask(regions[:, :, start:], layout.num_regions)[0]
    chosen = selected[:, :, layout.region[0].clamp(min=0)]
    return structure(rows, layout, case.config) & (chosen | ~routable(rows, layout, case.config))


def exact(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, scaling: float) -> Tensor:
    """Attention of one KV head's queries q [g, Q, D] over k, v [S, D] under bool [g or 1, Q, S], in float64."""
    logits = (q.double() @ k.double().T * scaling).masked_fill(~allowed, -torch.inf)
    return logits.softmax(-1) @ v.double()


def output_error(case: AttentionCase, inputs: tuple[Tensor, ...], out: Tensor, regions: Tensor | None) -> float:
    """Largest difference from float64 over the last text queries."""
    start = case.length - min(CHECKED_QUERIES, case.text // 2)
    allowed = allowed_pairs(case, regions, start)
    errors = []
    for head, (q, k, v, here) in enumerate(_by_kv_head(case, inputs, allowed)):
        group = q.shape[0]
        got = out[0, head * group : (head + 1) * group, start:]
        errors.append(measure.max_error(got, exact(q[:, start:], k, v, here, case.scaling)))
    return max(errors)


def gradient_error(
    case: AttentionCase, inputs: tuple[Tensor, ...], weight: Tensor, got: tuple[Tensor, ...], regions: Tensor | None
) -> float:
    """Largest difference of dq, dk and dv from float64."""
    allowed = allowed_pairs(case, regions, 0)
    errors = []
    for head, (q, k, v, here) in enumerate(_by_kv_head(case, inputs, allowed)):
        group = q.shape[0]
        heads = slice(head * group, (head + 1) * group)
        own = tuple(x.detach().double().requires_grad_() for x in (q, k, v))
        grads = torch.autograd.grad(exact(*own, here, case.scaling), own, weight[0, heads].double())
        mine = (got[0][0, heads], got[1][0, head], got[2][0, head])
        errors += [measure.max_error(a, b) for a, b in zip(mine, grads, strict=True)]
    return max(errors)


def _by_kv_head(case: AttentionCase, inputs: tuple[Tensor, ...], allowed: Tensor):
    """(q [g, S, D], k [S, D], v [S, D], allowed [g or 1, Q, S]) of each KV head."""
    q, k, v = (x[0] for x in inputs)
    group = case.heads // case.kv_heads
    for head in range(case.kv_heads):
        heads = slice(head * group, (head + 1) * group)
        here = {1: slice(None), case.kv_heads: slice(head, head + 1)}.get(allowed.shape[0], heads)
        yield q[heads], k[head], v[head], allowed[here]
