"""The method as loops in float64: the reference that every backend is compared with, outputs and gradients.

Written from equations (1)-(4) of the paper and the project's table of decisions, for reading and for tests, never for
speed: one query at a time, one key at a time, no masks, no shared code with `visibility`, `descriptors` or `routing`.
A descriptor of one's own brings its loops along (`RegionDescriptor.twin_describe` and `twin_score`).

Legend: B rows, S tokens, H query heads, Hkv key heads, D head size, R regions of a row. `b, h, i, j, g` index them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.descriptors import descriptor_named
from cambrian_gaze.gaze.layout import CONTEXT, IMAGE, PAD, TEXT, VIDEO, VISUAL, TokenLayout


@dataclass(frozen=True)
class _Row:
    """One row of a `TokenLayout` as python lists."""

    role: list[int]
    index: list[int]
    sample: list[int]
    unit: list[int]
    region: list[int]
    routed: list[bool]
    region_size: list[int]
    region_end: list[int]
    region_sample: list[int]
    region_modality: list[int]

    @classmethod
    def of(cls, layout: TokenLayout, b: int) -> _Row:
        return cls(**{name: getattr(layout, name)[b].tolist() for name in cls.__dataclass_fields__})

    def tokens_of(self, g: int) -> list[int]:
        """Places of the tokens of region g."""
        return [j for j in range(len(self.role)) if self.role[j] == VISUAL and self.region[j] == g]


def oracle_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: TokenLayout,
    config: GazeConfig,
    *,
    scaling: float,
    layer: int = 0,
    routing: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, list[list[list[list[int] | None]]]]:
    """Attention of every query of every row and head, by equations (1)-(4).

    Args:
        q: queries [B, H, S, D], after RoPE.
        k, v: keys (after RoPE) and values [B, Hkv, S, D].
        layout: what every token is. Only its fields are read, none of its methods.
        config: the method's decisions and budgets.
        scaling: factor on q.k inside the softmax (1/sqrt(D) in equation 1). Routing scores do not use it.
        layer: index of the layer, for `config.dense_layers`.
        routing: queries and keys that scores and descriptors are made of, where they are not q and k
            (`descriptor_keys="pre_rope"`). Same shapes as q and k.

    Returns:
        `(out, selected)`: out [B, H, S, D] in float64, zero for padding and differentiable in q, k and v (equation 4);
        `selected[b][h][i]`, the sorted regions that the query attends to, or None where the query does not route.
    """
    q, k, v = q.double(), k.double(), v.double()
    group = q.shape[1] // k.shape[1]
    selected = oracle_selection(*(routing or (q, k)), layout, config, scaling=scaling, layer=layer)
    rows = []
    for b in range(q.shape[0]):
        heads = []
        for h in range(q.shape[1]):
            outputs = []
            for i, seen in enumerate(oracle_keys(layout, config, b, selected[b][h])):
                if seen:
                    logits = k[b, h // group, seen] @ q[b, h, i] * scaling
                    outputs.append(torch.softmax(logits, dim=0) @ v[b, h // group, seen])
                else:
                    outputs.append(v.new_zeros(v.shape[-1]))
            heads.append(torch.stack(outputs))
        rows.append(torch.stack(heads))
    return torch.stack(rows), selected


def oracle_keys(
    layout: TokenLayout, config: GazeConfig, b: int, selected: Sequence[Sequence[int] | None]
) -> list[list[int]]:
    """Equation (3): the keys that each query of row b attends to, given the regions `selected[i]` of each query."""
    row = _Row.of(layout, b)
    places = range(len(row.role))
    return [[j for j in places if _sees(row, i, j, selected[i], config)] for i in places]


def oracle_selection(
    q: Tensor,
    k: Tensor,
    layout: TokenLayout,
    config: GazeConfig,
    *,
    scaling: float,
    layer: int = 0,
) -> list[list[list[list[int] | None]]]:
    """Equation (2) for every query: `selected[b][h][i]`, sorted region indices; None where the query does not route.

    Arguments as in `oracle_attention`, where q and k are what scores and descriptors are made of.
    """
    scores = oracle_scores(q, k, layout, config, scaling=scaling, layer=layer)
    selected = []
    for b, row_scores in enumerate(scores):
        modality = layout.region_modality[b].tolist()
        selected.append(
            [[None if pool is None else _top_k(pool, modality, config) for pool in head] for head in row_scores]
        )
    return selected


@torch.no_grad()
def oracle_scores(
    q: Tensor,
    k: Tensor,
    layout: TokenLayout,
    config: GazeConfig,
    *,
    scaling: float,
    layer: int = 0,
) -> list[list[list[dict[int, float] | None]]]:
    """`scores[b][h][i]`: {region: score} of the regions offered to the query, or None where the query does not route.

    With `head_granularity="kv_group"` all query heads of one key head carry the mean of their scores.
    """
    q, k = q.double(), k.double()
    group = q.shape[1] // k.shape[1]
    scores = []
    for b in range(q.shape[0]):
        row = _Row.of(layout, b)
        tokens = {g: row.tokens_of(g) for g in range(len(row.region_size)) if row.region_size[g] > 0}
        by_head: list[list[dict[int, float] | None]] = []
        for h in range(q.shape[1]):
            summaries = {g: _describe(k[b, h // group, places], config.descriptor) for g, places in tokens.items()}
            by_query = []
            for i in range(q.shape[2]):
                if not _routes(row, i, config, layer):
                    by_query.append(None)
                    continue
                offered = [
                    g for g in tokens if row.region_sample[g] == row.sample[i] and row.region_end[g] <= row.index[i]
                ]
                by_query.append({g: _score(q[b, h, i], summaries[g], config.descriptor, scaling) for g in offered})
            by_head.append(by_query)
        if config.head_granularity == "kv_group":
            by_head = [_mean_of(by_head[h // group * group : (h // group + 1) * group]) for h in range(q.shape[1])]
        scores.append(by_head)
    return scores


def _mean_of(heads: list[list[dict[int, float] | None]]) -> list[dict[int, float] | None]:
    """Scores of several query heads averaged, query by query and region by region."""
    return [
        None if pools[0] is None else {g: sum(pool[g] for pool in pools) / len(pools) for g in pools[0]}
        for pools in zip(*heads, strict=True)
    ]


def _routes(row: _Row, i: int, config: GazeConfig, layer: int) -> bool:
    """Does query i choose regions (rather than attend to all that causality allows)?"""
    if layer in config.dense_layers:
        return False
    if row.role[i] == TEXT:
        return row.routed[i]
    return row.role[i] == VISUAL and config.visual_queries == "gaze"


def _sees(row: _Row, i: int, j: int, selected: Sequence[int] | None, config: GazeConfig) -> bool:
    """May query i attend to key j, given the regions it selected (None: it does not route)? Equation (3)."""
    if row.role[i] == PAD or row.role[j] == PAD or row.sample[i] != row.sample[j] or row.index[j] > row.index[i]:
        return False
    own_unit = row.role[j] != TEXT and row.unit[i] == row.unit[j]
    if row.role[i] == CONTEXT:
        return own_unit
    if row.role[j] == TEXT:
        return True
    if row.role[j] == CONTEXT:
        return config.context_visible if row.role[i] == TEXT else config.visual_sees_context
    if row.role[i] == VISUAL and config.visual_queries != "causal" and own_unit:
        return True
    if row.role[i] == VISUAL and config.visual_queries == "unit":
        return False
    unfinished = row.region_end[row.region[j]] > row.index[i]  # offered to no one yet: K >= R must stay dense attention
    return selected is None or unfinished or row.region[j] in selected


def _describe(keys: Tensor, descriptor: str) -> tuple[Tensor, ...]:
    """What is kept of the keys [n, D] of one region."""
    if descriptor == "mean":
        return (sum(keys) / len(keys),)
    if descriptor == "max":
        return (keys.amax(dim=0),)
    if descriptor == "minmax":
        return keys.amin(dim=0), keys.amax(dim=0)
    if descriptor == "oracle":
        return (keys,)
    return descriptor_named(descriptor).twin_describe(keys)


def _score(q: Tensor, summary: tuple[Tensor, ...], descriptor: str, scaling: float) -> float:
    """Similarity of one query [D] to one region: q.d, or the bound or mass that the descriptor stands for."""
    if descriptor == "minmax":
        low, high = summary
        return torch.maximum(q * low, q * high).sum().item()
    if descriptor == "oracle":
        (keys,) = summary
        return torch.logsumexp(keys @ q * scaling, dim=0).item()
    if descriptor in ("mean", "max"):
        return (q @ summary[0]).item()
    return descriptor_named(descriptor).twin_score(q, summary, scaling)


def _top_k(scores: dict[int, float], modality: list[int], config: GazeConfig) -> list[int]:
    """The best regions, one TopK for each modality that has a budget of its own; ties go to the lowest index."""
    pools = [(list(scores), config.image)]
    if config.video is not None:
        pools = [
            ([g for g in scores if modality[g] == IMAGE], config.image),
            ([g for g in scores if modality[g] == VIDEO], config.video),
        ]
    chosen: list[int] = []
    for regions, budget in pools:
        best_first = sorted(regions, key=lambda g: (-scores[g], g))
        chosen += best_first[: oracle_kept(budget, len(regions), config.min_keep_ratio)]
    return sorted(chosen)


def oracle_kept(budget: RegionBudget, visible: int, min_keep_ratio: float = 0.0) -> int:
    """How many of `visible` regions a query keeps: the budget, not below the schedule's floor, clamped."""
    if visible == 0:
        return 0
    if budget.top_k is not None:
        kept = budget.top_k
    elif budget.kv_budget is not None:
        r_t, r_h, r_w = budget.region_size
        kept = max(1, budget.kv_budget // (r_t * r_h * r_w))
    else:
        kept = max(1, _ceil(1.0 if budget.keep_ratio is None else budget.keep_ratio, visible))
    return min(visible, max(kept, _ceil(min_keep_ratio, visible)))


def _ceil(ratio: float, count: int) -> int:
    """ceil(ratio * count), where a ratio such as 0.55 or 5/7 stands for the number that it approximates."""
    return math.ceil(ratio * count - 1e-9)
