"""`cambrian-gaze bench decode`: one decoding step of one layer, dense beside gaze in one run, on random data.

Dense is the fastest of three forms of `scaled_dot_product_attention` over the same keys: `enable_gqa`; keys and values
repeated beforehand, not at the dense arm's expense; and the query heads of a KV head as so many queries. Gaze is what
`attend` costs a layer of a model: scores, TopK and attention, with the context tokens that dense does not have.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cambrian_gaze.attention import GazeContext, GazeRecorder, attend, decode_torch, measure, prepare
from cambrian_gaze.attention.workspace import Workspace
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.layout import CONTEXT, IMAGE, PAD, TEXT, VISUAL, TokenLayout
from cambrian_gaze.gaze.routing import as_mask
from cambrian_gaze.gaze.visibility import regions_offered

SECTION = "bench decode"
"""Mark of this bench's table in `docs/benchmarks.md`."""

COLUMNS = {
    "visual_tokens": "N_v",
    "kept": "kept",
    "granularity": "granularity",
    "dtype": "dtype",
    "batch": "B",
    "arm": "arm",
    "median_us": "µs",
    "ratio_to_dense": "dense / this",
    "max_error": "max error",
    "union_fraction": "pages read",
    "read_bytes": "read",
    "attended_entries": "entries per head",
}

QUICK = {"tokens": [576], "dtype": ["fp32"], "seconds": 0.5}
"""Options of `--quick`."""

UNIT, REGION = 576, 36
"""Visual tokens of a unit (24 × 24) and of a region (6 × 6)."""

BURST_S = 0.03
"""Seconds for which one arm is called before the next has its turn."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--tokens", type=int, nargs="+", default=[576, 4608, 36864], help="visual tokens per row")
    parser.add_argument("--kept", type=float, nargs="+", default=[0.125], help="shares of the regions kept")
    parser.add_argument("--granularity", nargs="+", default=["kv_group", "q_head"], choices=["kv_group", "q_head"])
    parser.add_argument("--dtype", nargs="+", default=["bf16", "fp32"], choices=list(DTYPES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="rows")
    parser.add_argument("--heads", type=int, default=32, help="query heads")
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--text", type=int, default=64, help="text tokens in the cache")
    parser.add_argument("--context", type=int, default=4, help="context tokens per unit, read by gaze alone")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=5.0, help="time per case, shared by its arms")


def run(args: argparse.Namespace) -> list[measure.Row]:
    """A row per arm and case; the arms of a case take turns in short bursts, so that load falls on all of them."""
    rows = []
    with torch.no_grad():
        for batch in args.batch:
            for tokens in args.tokens:
                for dtype in args.dtype:
                    rows += _run_case(args, batch, tokens, dtype)
    measure.add_ratios(rows, ("visual_tokens", "batch", "dtype", "device"))
    return rows


def table(rows: list[measure.Row]) -> str:
    """Markdown for `docs/benchmarks.md`."""
    return measure.markdown_table(rows, COLUMNS)


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


def _run_case(args: argparse.Namespace, batch: int, tokens: int, dtype: str) -> Iterator[measure.Row]:
    generator = torch.Generator(args.device).manual_seed(0)
    units, regions, group = tokens // UNIT, tokens // REGION, args.heads // args.kv_heads
    if tokens % UNIT:
        raise ValueError(f"--tokens {tokens} is not a multiple of {UNIT}, the tokens of a 24 × 24 unit")

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=args.device, dtype=torch.float32).to(DTYPES[dtype])

    columns, kv = args.text + units * args.context, (batch, args.kv_heads)
    flat = [draw(*kv, columns, args.head_dim) for _ in range(2)]
    layer = _Layer(*(draw(*kv, regions, REGION, args.head_dim) for _ in range(2)), *flat)
    q, scaling = draw(batch, args.heads, 1, args.head_dim), args.head_dim**-0.5
    keys, values = (
        torch.cat([pages.flatten(2, 3), flat[:, :, : args.text]], 2)
        for pages, flat in ((layer.page_keys, layer.flat_keys), (layer.page_values, layer.flat_values))
    )
    calls = _dense_forms(q, keys, values, group)
    new, how = [x[:, :, -1:] for x in flat], dict(layer=0, scaling=scaling)
    cases = {}
    cache = _Cache([layer], *_layouts(batch, units, args.text, args.context, q.device))
    for kept in args.kept:
        for granularity in args.granularity:
            budget = RegionBudget((1, 6, 6), keep_ratio=kept)
            config = GazeConfig(image=budget, num_context_tokens=args.context, head_granularity=granularity)
            ctx = _context(config, cache)
            cases["decode", kept, granularity] = ctx
            calls["decode", kept, granularity] = lambda ctx=ctx: attend(q, *new, ctx, **how)
    calls = {key: _graphed(call, q.device) for key, call in calls.items()}
    times = _take_turns(calls, q.device, args.seconds)

    shared = dict(visual_tokens=tokens, dtype=dtype, batch=batch, device=args.device)
    entries = tokens + args.text
    exact = scaled_dot_product_attention(q.view(*kv, group, -1).double(), keys.double(), values.double()).view(q.shape)
    for key, call in calls.items():
        if key[0] == "dense":
            error = measure.max_error(call().reshape(q.shape), exact)
            own = dict(union_fraction=1.0, read_bytes=keys.nbytes + values.nbytes, attended_entries=entries)
            own |= dict(kept=1.0, granularity=None, arm="dense", form=key[1], max_error=error)
        else:
            own = dict(arm=key[0], kept=key[1], granularity=key[2], form=None)
            own |= _checked(q, call(), cases[key], layer, scaling)
        yield measure.row(**shared, **own, median_us=times[key])


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
        max_error=measure.max_error(out, want.view(out.shape)),
        union_fraction=share,
        read_bytes=read,
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
