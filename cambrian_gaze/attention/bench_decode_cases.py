"""What `bench decode` measures: a cache of random pages, text and context, the arms, and float64 beside them."""

from __future__ import annotations

import importlib.util
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cambrian_gaze.attention import GazeContext, GazeRecorder, attend, decode_native, decode_torch, measure, prepare
from cambrian_gaze.attention.workspace import Workspace
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.layout import CONTEXT, IMAGE, PAD, TEXT, VISUAL, TokenLayout
from cambrian_gaze.gaze.routing import as_mask
from cambrian_gaze.gaze.visibility import regions_offered

UNIT, REGION = 576, 36
"""Visual tokens of a unit (24 × 24) and of a region (6 × 6)."""

BURST_S = 0.03
"""Seconds for which one arm is called before the next has its turn."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Case:
    """One layer's step: `batch` rows of `tokens` visual tokens, `text` text tokens and `context` ones per unit."""

    batch: int
    tokens: int
    text: int
    context: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    device: str
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
        flat = [draw(*kv, self.text + units * self.context, dim) for _ in range(2)]
        layer = _Layer(*(draw(*kv, regions, REGION, dim) for _ in range(2)), *flat)
        q, scaling = draw(self.batch, self.heads, 1, dim), dim**-0.5
        keys, values = (
            torch.cat([pages.flatten(2, 3), flat[:, :, : self.text]], 2)
            for pages, flat in ((layer.page_keys, layer.flat_keys), (layer.page_values, layer.flat_values))
        )
        calls = _dense_forms(q, keys, values, self.heads // self.kv_heads)
        new, how = [x[:, :, -1:] for x in flat], dict(layer=0, scaling=scaling)
        contexts = {}
        cache = _Cache([layer], *_layouts(self.batch, units, self.text, self.context, q.device))
        for number, budget in enumerate(budgets):
            for granularity, arm in itertools.product(granularities, self._arms()):
                config = GazeConfig(
                    image=RegionBudget((1, 6, 6), **budget),
                    num_context_tokens=self.context,
                    head_granularity=granularity,
                    backend="triton" if arm == "triton" else "auto",
                )
                ctx = contexts[arm, number, granularity] = _context(config, cache)
                ctx.prepared["compiled"] = not self.plain_torch
                calls[arm, number, granularity] = lambda ctx=ctx: attend(q, *new, ctx, **how)
        calls = {key: _graphed(call, q.device) for key, call in calls.items()}
        times = _take_turns(calls, q.device, seconds)

        shared = dict(visual_tokens=self.tokens, dtype=self.dtype, batch=self.batch, device=self.device)
        grouped = q.view(*kv, -1, dim)
        exact = scaled_dot_product_attention(*(x.double() for x in (grouped, keys, values))).view(q.shape)
        for key, call in calls.items():
            if key[0] == "dense":
                own = dict(arm="dense", form=key[1], granularity=None, kept=1.0, regions=regions)
                own |= dict(max_error=measure.max_error(call().reshape(q.shape), exact), union_fraction=1.0)
                own |= dict(read_bytes=keys.nbytes + values.nbytes, attended_entries=keys.shape[2])
                own |= dict(visual_entries=self.tokens)
            else:
                own = dict(arm=key[0], form=self._form(key[0], grouped), granularity=key[2])
                own |= _checked(q, call(), contexts[key], layer, scaling)
            yield measure.row(**shared, **own, median_us=times[key])


    def _arms(self) -> tuple[str, ...]:
        """Names of the ways to decode: what every model does, and Triton where it is asked for on a GPU."""
        triton = self.device == "cuda" and importlib.util.find_spec("triton") is not None
        return ("decode", "triton") if triton else ("decode",)

    def _form(self, arm: str, grouped: Tensor) -> str:
        """How a step of queries [B, G, n, D] is taken."""
        if arm == "triton":
            return "Triton"
        compiled = self.device == "cpu" and not self.plain_torch and decode_native.takes(grouped)
        return "compiled" if compiled else "plain torch"


@dataclass
class _Layer:
    """Random pages, text and context of one layer."""

    page_keys: Tensor
    page_values: Tensor
    flat_keys: Tensor
    flat_values: Tensor
    resident: bool = True

    def page_rows(self) -> tuple[Tensor, Tensor, int]:
        room, slots, dim = self.page_keys.shape[2:]
        return self.page_keys.view(-1, slots * dim), self.page_values.view(-1, slots * dim), room

    def gather_pages(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        row, group = (torch.arange(n, device=chosen.device) for n in chosen.shape[:2])
        at = (row[:, None, None], group[None, :, None], chosen)
        return self.page_keys[at], self.page_values[at]

    @property
    def descriptors(self) -> Tensor:
        return self._descriptors

    def __post_init__(self) -> None:
        self._descriptors = self.page_keys.float().mean(3)

    def double(self) -> _Layer:
        return _Layer(*(x.double() for x in (self.page_keys, self.page_values, self.flat_keys, self.flat_values)))


@dataclass
class _Cache:
    """What attention reads of a gaze cache."""

    layers: list[_Layer]
    page_layout: TokenLayout
    flat_layout: TokenLayout
    workspace: Workspace = field(default_factory=Workspace)


def _dense_forms(q: Tensor, keys: Tensor, values: Tensor, group: int) -> dict[tuple, Callable[[], Tensor]]:
    wide = [x.repeat_interleave(group, 1) for x in (keys, values)]
    grouped = q.view(*keys.shape[:2], group, -1)
    return {
        ("dense", "enable_gqa"): lambda: scaled_dot_product_attention(q, keys, values, enable_gqa=True),
        ("dense", "repeated"): lambda: scaled_dot_product_attention(q, *wide),
        ("dense", "grouped"): lambda: scaled_dot_product_attention(grouped, keys, values),
    }


def _checked(q: Tensor, out: Tensor, ctx: GazeContext, layer: _Layer, scaling: float) -> dict:
    """Error against float64 over the same selection, and what was read and attended, counted in a call."""
    batch, groups, regions = layer.page_keys.shape[:3]
    chosen = ctx.choose(0, q, layer.page_keys.flatten(2, 3), ctx.cache.page_layout.region, scaling)
    seen = ctx.prepared["page_seen"], ctx.prepared["flat_seen"]
    grouped = q.view(batch, groups, -1, q.shape[-1]).double()
    want, _ = decode_torch.attend(grouped, layer.double(), *seen, chosen, scaling)
    ctx.recorder = GazeRecorder()
    attend(q, layer.flat_keys, layer.flat_values, ctx, layer=0, scaling=scaling)
    gaze, ctx.recorder = ctx.recorder.layers[0], None
    # Every selected page once per KV head. A step that reads in place, or per query head, moves more than this.
    share = as_mask(chosen, regions).view(batch, groups, -1, regions).any(2).double().mean().item()
    read = layer.descriptors.nbytes + layer.flat_keys.nbytes + layer.flat_values.nbytes
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


def _context(config: GazeConfig, cache: _Cache) -> GazeContext:
    """One text token after everything else."""
    last = cache.flat_layout.tokens(slice(-1, None))
    return prepare(
        GazeContext(
            config=config,
            layout=last,
            key_layout=last,
            offered=regions_offered(last, config),
            cache=cache,
            reads_cache=True,
            is_step=True,
        ),
        cache.layers[0].page_keys.device,
        cache.layers[0].page_keys.dtype,
    )


def _layouts(batch: int, units: int, text: int, context: int, device: torch.device) -> tuple[TokenLayout, TokenLayout]:
    """Layouts of pages and columns: `units` images in a row, each with its context tokens, then text."""
    step, per_unit = UNIT + context, UNIT // REGION
    slots, unit = torch.arange(units * UNIT), torch.arange(units)
    of_context = torch.arange(units * context) // max(context, 1)
    regions = unit.repeat_interleave(per_unit)
    full = torch.full_like
    table = dict(
        region_size=full(regions, REGION),
        region_end=(regions + 1) * step,
        region_sample=full(regions, 0),
        region_modality=full(regions, IMAGE),
        region_unit=regions,
        num_units=torch.tensor(units),
        next_position=torch.tensor(units * step + text),
    )

    def layout(role: Tensor, index: Tensor, unit: Tensor, region: Tensor, slot: Tensor) -> TokenLayout:
        fields = dict(role=role.to(torch.int8), index=index, unit=unit, region=region, slot=slot, position_ids=index)
        fields |= dict(sample=full(index, 0).where(role != PAD, -1), routed=full(index, 1).bool(), **table)
        return TokenLayout(**{name: x.expand(batch, *x.shape).to(device) for name, x in fields.items()})

    pages = layout(
        full(slots, VISUAL), slots // UNIT * step + slots % UNIT, slots // UNIT, slots // REGION, slots % REGION
    )
    after = torch.arange(text)
    index = torch.cat(
        [of_context * step + UNIT + torch.arange(units * context) % max(context, 1), units * step + after]
    )
    nothing = full(index, -1)
    role = torch.cat([full(of_context, CONTEXT), full(after, TEXT)])
    return pages, layout(role, index, torch.cat([of_context, full(after, -1)]), nothing, nothing)


def _take_turns(calls: dict[tuple, Callable], device: torch.device, seconds: float) -> dict[tuple, float]:
    """Median µs of each call. The calls take turns in bursts of 30 ms, so that other load falls on all alike, and each
    finds the processor's cache as its own last call left it."""
    times: dict[tuple, list[float]] = {key: [] for key in calls}
    begin, rounds = time.perf_counter(), 0
    while rounds < 5 or time.perf_counter() - begin < seconds:
        rounds += 1
        for key, call in calls.items():
            call()
            since = time.perf_counter()
            while True:
                times[key].append(measure.median_us(call, device, warmup=0, repeats=1))
                if time.perf_counter() - since > BURST_S:
                    break
    return {key: statistics.median(taken) for key, taken in times.items()}


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
