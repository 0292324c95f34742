"""How much of the picture all heads together read at one step, beside what each of them sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cambrian_gaze.data.records.records import Record
from cambrian_gaze.studies.routing.chosen import as_chosen, regions_of_record


def region_unions(records: Sequence[Record], answers: Sequence[Mapping[str, Any]], kv_heads: int) -> dict[str, Any]:
    """Regions chosen by at least one head, as means over the steps of all answers, one for each token.

    A KV head's entries are read once for its query heads, so that `kv_head` times the entries of a region is what a
    step reads from a KV head's memory; heads of other KV heads and layers have entries of their own.

    Returns: `steps`; `regions` (R) and `entries` (visual tokens of a region), means over the steps; `head` (K),
    `kv_head` [L] and `layer` [L], of any head of a KV head, or a layer, by layer; `model`, of any head; and `random`:
    `kv_head`, `layer` and `model` as expected of heads that chose as many regions at random, each by itself.
    """
    import numpy as np

    steps: dict[str, list[Any]] = {name: [] for name in ("regions", "entries", "head", "kv_head", "layer", "model")}
    random: dict[str, list[Any]] = {name: [] for name in ("kv_head", "layer", "model")}
    for record, answer in zip(records, answers, strict=True):
        regions = regions_of_record(record)
        chosen = as_chosen(answer, regions)
        tokens, layers, heads, _ = chosen.shape
        grouped = chosen.reshape(tokens, layers, kv_heads, heads // kv_heads, regions)
        steps["regions"].append(np.full(tokens, regions))
        steps["entries"].append(np.full(tokens, answer["attended"]["of"] / regions))
        steps["head"].append(chosen.sum(-1).mean((1, 2)))
        steps["kv_head"].append(grouped.any(3).sum(-1).mean(2))
        steps["layer"].append(chosen.any(2).sum(-1))
        steps["model"].append(chosen.any((1, 2)).sum(-1))
        missed = 1 - grouped.sum(-1) / regions  # [tokens, L, KV heads, heads of each]
        random["kv_head"].append(regions * (1 - missed.prod(3)).mean((1, 2)))
        random["layer"].append(regions * (1 - missed.prod((2, 3))).mean(1))
        random["model"].append(regions * (1 - missed.prod((1, 2, 3))))
    count = sum(map(len, steps["model"]))
    if not count:
        return {"steps": 0}
    means = {name: np.concatenate(values).mean(0).tolist() for name, values in steps.items()}
    expected = {name: np.concatenate(values).mean(0).tolist() for name, values in random.items()}
    return {"steps": count, **means, "random": expected}
