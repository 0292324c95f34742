"""What `bench decode` measures: a cache of random pages, text and context, the arms, and float64 beside them."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from cambrian_gaze import measure
from cambrian_gaze.attention import BACKENDS, GazeContext, GazeRecorder, attend
from cambrian_gaze.attention.backend import REFERENCE
from cambrian_gaze.attention.decode import native as decode_native
from cambrian_gaze.attention.decode import reference as decode_torch
from cambrian_gaze.bench.decode_cache import REGION, UNIT, RandomCache, RandomLayer, layouts, step_context
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.routing import as_mask

BURST_S = 0.03
"""Seconds for which one arm is called before the next has its turn."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class DecodeCase:
    """One layer's step: `batch` rows of `tokens` visual tokens, `text` text tokens and `context` ones per unit; or
    of several layers in turn, each with keys and values of its own."""

    batch: int
    tokens: int
    text: int
    context: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    device: str
    layers: int = 1
    plain_torch: bool = False

    def __post_init__(self) -> None:
        if self.tokens % UNIT or self.tokens < UNIT:
            raise ValueError(f"--tokens {self.tokens} is not a multiple of {UNIT}, the tokens of a 24 × 24 unit")
        if self.heads % self.kv_heads or self.text < 1:
            raise ValueError(
                f"need a text token and heads that divide into KV heads, got text {self.text}, heads {self.heads}, "
                f"kv heads {self.kv_heads}"
            )

    def rows(
        self, budgets: Sequence[dict[str, Any]], granularities: Sequence[str], seconds: float
    ) -> Iterator[measure.Row]:
        """A row per dense form, and per budget (`top_k` or `keep_ratio`), granularity and way to decode."""
        regions, units = self.tokens // REGION, self.tokens // UNIT
        for budget in budgets:
            if budget.get("top_k", 1) > regions:
                raise ValueError(f"--regions {budget['top_k']} is more than the {regions} of {self.tokens} tokens")
        generator = torch.Generator(self.device).manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=self.device, dtype=torch.float32).to(
                DTYPES[self.dtype]
            )

        kv, dim = (self.batch, self.kv_heads), self.head_dim
        columns = self.text + units * self.context
        shapes = 2 * [(*kv, regions, REGION, dim)] + 2 * [(*kv, columns, dim)]
        layers = [RandomLayer(*(draw(*shape) for shape in shapes)) for _ in range(self.layers)]
        q, scaling = draw(self.batch, self.heads, 1, dim), dim**-0.5
        dense = [layer.in_one_piece(self.text) for layer in layers]
        forms = [_dense_forms(q, *both, self.heads // self.kv_heads) for both in dense]
        calls = {key: [form[key] for form in forms] for key in forms[0]}
        contexts = {}
        cache = RandomCache(layers, *layouts(self.batch, units, self.text, self.context, q.device))
        for number, budget in enumerate(budgets):
            for granularity, arm in itertools.product(granularities, self._arms()):
                config = GazeConfig(
                    image=RegionBudget((1, 6, 6), **budget),
                    num_context_tokens=self.context,
                    head_granularity=granularity,
                    backend=arm if arm in BACKENDS else "auto",
                )
                ctx = contexts[arm, number, granularity] = step_context(config, cache)
                ctx.prepared = dataclasses.replace(ctx.prepared, compiled=not self.plain_torch)
                calls[arm, number, granularity] = [_step(q, ctx, at, scaling) for at in range(self.layers)]
        calls = {key: [_graphed(call, q.device) for call in each] for key, each in calls.items()}
        times = _take_turns(calls, q.device, seconds)

        shared = dict(visual_tokens=self.tokens, dtype=self.dtype, batch=self.batch, device=self.device)
        shared |= dict(heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim)
        shared |= dict(text_tokens=self.text, context_tokens=self.context)
        (keys, values), grouped = dense[0], q.view(*kv, -1, dim)
        exact = scaled_dot_product_attention(*(x.double() for x in (grouped, keys, values))).view(q.shape)
        for key, (call, *_) in calls.items():
            if key[0] == "dense":
                own = dict(arm="dense", form=key[1], granularity=None, kept=1.0, regions=regions)
                own |= dict(max_error=measure.max_error(call().reshape(q.shape), exact), union_fraction=1.0)
                own |= dict(read_bytes=keys.nbytes + values.nbytes, attended_entries=keys.shape[2])
                own |= dict(visual_entries=self.tokens)
            else:
                own = dict(arm=key[0], form=self._form(key[0], grouped), granularity=key[2])
                own |= _checked(q, call(), contexts[key], layers[0], scaling)
            yield measure.row(**shared, **own, layers=self.layers, **times[key])

    def _arms(self) -> tuple[str, ...]:
        """Ways to decode, by name: what every model does, and on a GPU those that backends declare of their own."""
        device, dtype = torch.device(self.device), DTYPES[self.dtype]
        usual = BACKENDS[REFERENCE].decode
        own = [name for name, b in BACKENDS.items() if b.decode != usual and not b.refuses(GazeConfig(), device, dtype)]
        return ("decode", *own) if self.device == "cuda" else ("decode",)

    def _form(self, arm: str, grouped: Tensor) -> str:
        """How a step of queries [B, G, n, D] is taken."""
        if arm in BACKENDS:
            return arm.capitalize()
        compiled = self.device == "cpu" and not self.plain_torch and decode_native.takes(grouped)
        return "compiled" if compiled else "plain torch"


def _dense_forms(q: Tensor, keys: Tensor, values: Tensor, group: int) -> dict[tuple, Callable[[], Tensor]]:
    """By whichever kernel torch picks; on a GPU also by FlashAttention and no other, where it takes them."""
    wide = [x.repeat_interleave(group, 1) for x in (keys, values)]
    grouped = q.view(*keys.shape[:2], group, -1)
    forms: dict[tuple, Callable[[], Tensor]] = {
        ("dense", "enable_gqa"): lambda: scaled_dot_product_attention(q, keys, values, enable_gqa=True),
        ("dense", "repeated"): lambda: scaled_dot_product_attention(q, *wide),
        ("dense", "grouped"): lambda: scaled_dot_product_attention(grouped, keys, values),
    }
    if q.device.type == "cuda":
        forms |= {(arm, f"{form}, FlashAttention"): flashing(call) for (arm, form), call in forms.items()}
    return {key: call for key, call in forms.items() if _runs(call)}


def flashing(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """`call`, with FlashAttention's kernel or an error."""

    def with_flash() -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return call()

    return with_flash


def _runs(call: Callable[[], Tensor]) -> bool:
    try:
        call()
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False
    return True


def _step(q: Tensor, ctx: GazeContext, layer: int, scaling: float) -> Callable[[], Tensor]:
    pages = ctx.cache.layers[layer]
    new = pages.text_context_keys[:, :, -1:], pages.text_context_values[:, :, -1:]
    return lambda: attend(q, *new, ctx, layer=layer, scaling=scaling)


def _checked(q: Tensor, out: Tensor, ctx: GazeContext, layer: RandomLayer, scaling: float) -> dict:
    """Error against float64 over the step's own selection, and what was read and attended, counted in a call."""
    batch, groups, regions = layer.page_keys.shape[:3]
    ctx.recorder = GazeRecorder()
    _step(q, ctx, 0, scaling)()
    gaze, ctx.recorder = ctx.recorder.layers[0], None
    chosen = gaze.regions[:, :, None]  # [B, 1, 1, R] where all are kept
    chosen = chosen.expand(-1, max(groups, chosen.shape[1]), -1, -1)
    grouped = q.view(batch, groups, -1, q.shape[-1]).double()
    want, _ = decode_torch.attend(grouped, layer.double(), ctx.prepared.seen, chosen, scaling)
    # Every selected page once per KV head. A step that reads in place, or per query head, moves more than this.
    share = as_mask(chosen, regions).view(batch, groups, -1, regions).any(2).double().mean().item()
    read = layer.descriptors.nbytes + layer.text_context_keys.nbytes + layer.text_context_values.nbytes
    read += round(share * (layer.page_keys.nbytes + layer.page_values.nbytes))
    return dict(
        kept=chosen.shape[-1] / regions,
        regions=chosen.shape[-1],
        max_error=measure.max_error(out, want.view(out.shape)),
        union_fraction=share,
        read_bytes=read,
        visual_entries=gaze.visual.double().mean().item(),
        attended_entries=(gaze.visual + gaze.context + gaze.text).double().mean().item(),
    )


def _take_turns(
    calls: dict[tuple, list[Callable]], device: torch.device, seconds: float
) -> dict[tuple, dict[str, float]]:
    """µs of each arm's calls, one per layer: the median, and what nine in ten stay below. The arms take turns in bursts
    of 30 ms, so that other load falls on all alike. With one layer a call finds the processor's cache as the last one
    of its arm left it; with so many that they do not fit there, each reads from memory, as between the other layers
    and weights of a model."""
    times: dict[tuple, list[float]] = {key: [] for key in calls}
    begin, rounds = time.perf_counter(), 0
    while rounds < 5 or time.perf_counter() - begin < seconds:
        rounds += 1
        for key, each in calls.items():
            since = time.perf_counter()
            for number, call in enumerate(itertools.cycle(each)):
                taken = measure.median_us(call, device, warmup=0, repeats=1)
                if number:
                    times[key].append(taken)
                if number >= len(each) and time.perf_counter() - since > BURST_S:
                    break
    return {key: {"median_us": statistics.median(x), "p90_us": sorted(x)[len(x) * 9 // 10]} for key, x in times.items()}


def _graphed(call: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """On a GPU the call as a CUDA graph, dense and gaze alike, so that launches do not count; else the call."""
    if device.type != "cuda":
        return call
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay
