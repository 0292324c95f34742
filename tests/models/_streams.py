"""A decoder's attention layers with a gaze cache that tokens come to in pieces, and the same without a cache."""

import dataclasses
import random
from functools import cache

import torch
from torch import Tensor

from cambrian_gaze.attention import GazeContext, GazeRecorder, attend, prepare
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import EMPTY_SLOT, PAD, REGION_FIELDS, TokenLayout
from cambrian_gaze.models.cache.cache import GazeCache
from tests._layouts import draw_case, draw_tensors

DIM = 8
SCALING = 0.4
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5}  # decoding takes its softmax in fp32


def table_so_far(layout: TokenLayout, stop: int) -> TokenLayout:
    """The layout with a region table that knows nothing of units after token `stop`, as `derive_layout` leaves it."""
    index = layout.index.masked_fill(layout.region < 0, EMPTY_SLOT)
    first = torch.full_like(layout.region_size, EMPTY_SLOT)
    if layout.num_regions:
        first.scatter_reduce_(1, layout.region.clamp(min=0), index, "amin")
    begun = first < stop
    width = int(begun.sum(1).max()) if layout.num_regions else 0
    empty = {"region_size": 0, "region_end": EMPTY_SLOT, "region_modality": 0}
    table = {n: getattr(layout, n).masked_fill(~begun, empty.get(n, -1))[:, :width] for n in REGION_FIELDS}
    return dataclasses.replace(layout, **table)


class Stream:
    """A decoder's attention layers that tokens come to in pieces."""

    def __init__(self, config: GazeConfig, cache: GazeCache | None = None):
        self.config = config
        self.cache = GazeCache(config) if cache is None else cache  # an empty cache is false
        self.recorder: GazeRecorder | None = None

    def feed(self, layers: list[tuple[Tensor, Tensor, Tensor]], part: TokenLayout, rotary=None) -> list[Tensor]:
        """The outputs [B, H, S, D] of each layer for new tokens, whose (q, k, v) of each layer are given."""
        cache, new = self.cache, part.shape[1]
        reads = cache.length > 0
        cache.extend(part, rotary)
        is_step = reads and new == 1 and cache.only_text_came
        self.recorder = GazeRecorder()
        ctx = GazeContext(
            config=self.config,
            layout=part,
            key_layout=cache.key_layout() if reads and not is_step else part,
            cache=cache,
            reads_cache=reads,
            is_step=is_step,
            rotary=rotary,
            recorder=self.recorder,
        )
        prepare(ctx, layers[0][0].device, layers[0][0].dtype)
        outputs = []
        for number, (q, k, v) in enumerate(layers):
            k, v = cache.update(k, v, number)
            outputs.append(attend(q, k, v, ctx, layer=number, scaling=SCALING))
        return outputs

    def feed_pieces(self, layers, layout: TokenLayout, cuts, rotary=None) -> list[Tensor]:
        """All tokens of a layout, cut at `cuts`; outputs joined again."""
        bounds = [0, *cuts, layout.shape[1]]
        pieces = []
        for start, stop in zip(bounds, bounds[1:], strict=False):
            part = table_so_far(layout, stop).tokens(slice(start, stop))
            turn = None if rotary is None else tuple(x[:, start:stop] for x in rotary)
            pieces.append(self.feed([tuple(x[:, :, start:stop] for x in qkv) for qkv in layers], part, turn))
        return [torch.cat([piece[n] for piece in pieces], dim=2) for n in range(len(layers))]


def at_once(layers, layout, config) -> list[Tensor]:
    """Without a cache."""
    ctx = GazeContext(config=config, layout=layout, key_layout=layout)
    prepare(ctx, layers[0][0].device, layers[0][0].dtype)
    return [attend(*qkv, ctx, layer=n, scaling=SCALING) for n, qkv in enumerate(layers)]


@cache
def drawn(seed: int, **options):
    """(case, layout, (q, k, v) in fp32 of two layers) of `draw_case(seed)`."""
    case = draw_case(seed, **options)
    cases = (case, dataclasses.replace(case, seed=seed + 500))
    layers = [draw_tensors(c, dim=DIM, scaling=SCALING, dtype=torch.float32) for c in cases]
    return case, case.batch.layout(), layers


def cast(layers, dtype):
    return [tuple(x.to(dtype) for x in qkv) for qkv in layers]


def real_places(layout, heads):
    return (layout.role != PAD)[:, None].expand(-1, heads, -1)


def cuts_of_kind(kind: str, layout: TokenLayout, seed: int) -> list[int]:
    length = layout.shape[1]
    rng = random.Random(seed)
    if kind == "all at once":
        return []
    if kind == "one by one":
        return list(range(1, length))
    if kind == "prefill, then steps":
        return list(range(rng.randint(1, length - 1), length))
    return sorted(rng.sample(range(1, length), k=min(length - 1, rng.randint(1, 12))))


def random_rotary(layout, seed):
    """cos and sin [B, S, D] as transformers makes them: two equal halves."""
    angle = torch.randn(*layout.shape, DIM // 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x, rotary):
    cos, sin = (r[:, None] for r in rotary)
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin
