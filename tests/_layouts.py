"""Random batches of text, images and videos, and the layout that each must get, written down while drawing it.

A batch is drawn as rows of samples of segments. `Batch.expected` is filled token by token from those segments and never
looks at type ids, so that it is an independent account of what `derive_layout` recovers from tensors.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.derive import derive_layout
from cambrian_gaze.gaze.layout import CONTEXT, EMPTY_SLOT, IMAGE, PAD, TEXT, VIDEO, VISUAL, TokenLayout
from cambrian_gaze.gaze.oracle import oracle_kept, oracle_scores
from cambrian_gaze.gaze.token_types import CONTEXT_TYPE

Segment = tuple[str, tuple[int, ...]]
"""("text", (n,)), ("image", (1, h, w)) or ("video", (t, h, w))."""

Sample = list[Segment]
"""Segments of one sample, in order."""


@dataclass
class Batch:
    """What a processor emits for some rows, and what the layout of it must be."""

    mm_token_type_ids: Tensor
    attention_mask: Tensor
    grid_thw: Tensor
    sample_ids: Tensor | None
    config: GazeConfig
    expected: dict[str, Tensor]

    def layout(self) -> TokenLayout:
        return derive_layout(
            self.mm_token_type_ids, self.attention_mask, self.grid_thw, self.config, sample_ids=self.sample_ids
        )


def draw_sample(rng: random.Random, grids: list[tuple[str, tuple[int, int, int]]], max_items: int = 3) -> Sample:
    """Text before, between and after 0 to `max_items` images and videos; some touch, some end the sample."""
    segments: Sample = []
    items = rng.randint(0, max_items)
    for _ in range(items):
        if rng.random() < 0.8:
            segments.append(("text", (rng.randint(1, 3),)))
        segments.append(rng.choice(grids))
    if not items or rng.random() < 0.9:
        segments.append(("text", (rng.randint(1, 4),)))
    return segments


def build(
    rows: list[list[Sample]], config: GazeConfig, *, left: bool = False, pack: bool | None = None, min_length: int = 0
) -> Batch:
    """The tensors of a batch and its layout, by hand.

    Args:
        rows: samples of each row. More than one sample in a row makes a pack.
        left: padding on the left.
        pack: emit `sample_ids`; default: where some row has more than one sample.
        min_length: pad to at least this length.
    """
    pack = any(len(row) > 1 for row in rows) if pack is None else pack
    built = [_build_row(row, config) for row in rows]
    length = max(min_length, max(len(tokens) for tokens, _ in built))
    regions = max(len(table) for _, table in built)
    fields: dict[str, list] = {
        name: []
        for name in ("type", "mask", "role", "index", "sample", "unit", "region", "slot", "position_ids")
        + ("region_size", "region_end", "region_sample", "region_modality", "region_unit")
    }
    blank = dict(type=0, mask=0, role=PAD, sample=-1, unit=-1, region=-1, slot=-1, position_ids=0)
    for tokens, table in built:
        missing = [blank] * (length - len(tokens))
        before = len(missing) if left else 0
        padded = missing + tokens if left else tokens + missing
        for name in blank:
            fields[name].append([token[name] for token in padded])
        fields["index"].append(list(range(length)))
        for name, empty in (("size", 0), ("end", EMPTY_SLOT), ("sample", -1), ("modality", 0), ("unit", -1)):
            column = [region[name] + (before if name == "end" else 0) for region in table]
            fields[f"region_{name}"].append(column + [empty] * (regions - len(table)))
    tensors = {name: torch.tensor(value, dtype=torch.int64) for name, value in fields.items()}
    if not regions:
        for name in tensors:
            if name.startswith("region_"):
                tensors[name] = torch.zeros(len(rows), 0, dtype=torch.int64)
    grids = [grid for row in rows for sample in row for kind, grid in sample if kind != "text"]
    return Batch(
        mm_token_type_ids=tensors.pop("type"),
        attention_mask=tensors.pop("mask"),
        grid_thw=torch.tensor(grids, dtype=torch.int64).reshape(-1, 3),
        sample_ids=tensors["sample"] if pack else None,
        config=config,
        expected=tensors,
    )


def _build_row(samples: list[Sample], config: GazeConfig) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
    """Tokens and region table of one row without padding."""
    tokens: list[dict[str, int]] = []
    table: list[dict[str, int]] = []
    unit = 0
    for number, sample in enumerate(samples):
        start = len(tokens)

        def add(kind: int, role: int, unit: int = -1, region: int = -1, slot: int = -1, n=number, start=start) -> None:
            place = len(tokens) - start
            tokens.append(
                dict(type=kind, mask=1, role=role, sample=n, unit=unit, region=region, slot=slot, position_ids=place)
            )

        for kind, shape in sample:
            if kind == "text":
                for _ in range(shape[0]):
                    add(0, TEXT)
                continue
            modality = IMAGE if kind == "image" else VIDEO
            budget = config.video if modality == VIDEO and config.video is not None else config.image
            r_t, r_h, r_w = budget.region_size
            t, h, w = shape
            regions: dict[tuple[int, int, int], int] = {}
            for cell in sorted({(a // r_t, b // r_h, c // r_w) for a in range(t) for b in range(h) for c in range(w)}):
                regions[cell] = len(table)
                table.append(dict(size=0, end=0, sample=number, modality=modality, unit=unit + cell[0] * r_t))
            for frame in range(t):
                for y in range(h):
                    for x in range(w):
                        g = regions[frame // r_t, y // r_h, x // r_w]
                        add(modality, VISUAL, unit, g, table[g]["size"])
                        table[g]["size"] += 1
                for _ in range(config.num_context_tokens):
                    add(CONTEXT_TYPE, CONTEXT, unit)
                for (a, _, _), g in regions.items():
                    if a == frame // r_t:
                        table[g]["end"] = len(tokens)
                unit += 1
    return tokens, table


def free_cuts(layout: TokenLayout) -> list[int]:
    """Places where no row is inside an image or video."""
    text = (layout.unit < 0).all(0)
    return [c for c in range(1, layout.shape[1]) if text[c - 1] and text[c]]


def items_between(batch: Batch, bounds: list[int]) -> list[list[int]]:
    """Numbers of the images and videos that begin in each chunk of columns, in order of appearance over the rows."""
    chunks: list[list[int]] = [[] for _ in bounds[1:]]
    unit = batch.expected["unit"]
    starts = [int((row == u).nonzero()[0]) for row in unit for u in range(int(row.max()) + 1)]
    frame = 0
    for item, frames in enumerate(batch.grid_thw[:, 0].tolist()):
        number = next(n for n in range(len(chunks)) if bounds[n] <= starts[frame] < bounds[n + 1])
        chunks[number].append(item)
        frame += frames
    return chunks


@dataclass
class Case:
    """A batch with the sizes of an attention call."""

    batch: Batch
    heads: int
    kv_heads: int
    seed: int

    @property
    def config(self) -> GazeConfig:
        return self.batch.config


def draw_case(seed: int, **options) -> Case:
    """A batch, a configuration and head counts. 24 consecutive seeds meet every combination of GQA group (1, 4, 7),
    descriptor and head granularity; the rest is drawn. `options` replace fields of the configuration."""
    rng = random.Random(seed)
    group = (1, 4, 7)[seed % 3]
    kv_heads = 1 if group == 7 else 2
    size, grids = rng.choice(
        [
            ((1, 3, 3), [("image", (1, 6, 6)), ("image", (1, 3, 6))]),
            ((1, 6, 6), [("image", (1, 12, 6)), ("image", (1, 6, 6))]),
            ((1, 3, 3), [("image", (1, 5, 7)), ("image", (1, 4, 3))]),
            ((1, 2, 2), [("image", (1, 4, 4)), ("video", (2, 3, 4))]),
            ((2, 2, 3), [("video", (3, 4, 3)), ("video", (2, 3, 4)), ("image", (1, 3, 3))]),
        ]
    )
    budget = rng.choice(
        [{"top_k": 1}, {"top_k": 2}, {"top_k": 3}, {"keep_ratio": 0.4}, {"kv_budget": 2 * math.prod(size)}]
    )
    video = None
    if rng.random() < 0.4:
        video = RegionBudget((2, 2, 2), **rng.choice([{"top_k": 2}, {"keep_ratio": 0.3}, {"kv_budget": 11}]))
    visual_queries = rng.choice(["causal", "causal", "unit", "gaze"])
    if visual_queries == "gaze" and (size[0] > 1 or video is not None):
        visual_queries = "causal"
    fields = dict(
        image=RegionBudget(size, **budget),
        video=video,
        num_context_tokens=rng.choice([0, 1, 4]),
        context_visible=rng.random() < 0.8,
        visual_sees_context=rng.random() < 0.7,
        visual_queries=visual_queries,
        descriptor=("mean", "max", "minmax", "oracle")[seed // 3 % 4],
        head_granularity=("q_head", "kv_group")[seed // 12 % 2],
        min_keep_ratio=rng.choice([0.0, 0.0, 0.5]),
    )
    config = GazeConfig(**{**fields, **options})
    packed = rng.random() < 0.4
    left = not packed and rng.random() < 0.5
    rows = [
        [draw_sample(rng, grids, max_items=2) for _ in range(rng.randint(1, 2) if packed else 1)]
        for _ in range(rng.randint(1, 3))
    ]
    if all(kind == "text" for row in rows for sample in row for kind, _ in sample):
        rows[0][0] = [("text", (2,)), grids[0], ("text", (3,))]
    return Case(build(rows, config, left=left, pack=packed), group * kv_heads, kv_heads, seed)


def draw_tensors(
    case: Case,
    *,
    dim: int = 8,
    scaling: float = 8**-0.5,
    dtype: torch.dtype = torch.float64,
    margin: float = 1e-4,
) -> tuple[Tensor, Tensor, Tensor]:
    """Random q [B, H, S, D], k and v [B, Hkv, S, D] of a case, drawn again until no selection hangs on less than
    `margin`, so that fp32 and fp64 choose alike."""
    layout = case.batch.layout()
    batch, length = layout.shape
    for attempt in range(20):
        generator = torch.Generator().manual_seed(1000 * case.seed + attempt)
        q, k, v = (
            torch.randn(batch, n, length, dim, generator=generator, dtype=torch.float32).to(dtype)
            for n in (case.heads, case.kv_heads, case.kv_heads)
        )
        if selection_margin(oracle_scores(q, k, layout, case.config, scaling=scaling), layout, case.config) > margin:
            return q, k, v
    raise AssertionError(f"case {case.seed}: no draw without near-ties")


def selection_margin(scores: list, layout: TokenLayout, config: GazeConfig) -> float:
    """Smallest gap between the last region kept and the first one left out, over all queries, heads and pools of
    `oracle_scores`."""
    margin = math.inf
    for b, row in enumerate(scores):
        modality = layout.region_modality[b].tolist()
        for pool in (pool for head in row for pool in head if pool):
            for of in [(IMAGE, VIDEO)] if config.video is None else [(IMAGE,), (VIDEO,)]:
                best = sorted((score for g, score in pool.items() if modality[g] in of), reverse=True)
                kept = oracle_kept(config.budget(of[0]), len(best), config.min_keep_ratio)
                if 0 < kept < len(best):
                    margin = min(margin, best[kept - 1] - best[kept])
    return margin
