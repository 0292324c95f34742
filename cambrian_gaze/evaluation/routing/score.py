"""Judged tokens → routing accuracy per layer and head, beside random routing on the same tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cambrian_gaze.evaluation.routing.measure import Judged
from cambrian_gaze.evaluation.tables.intervals import bootstrap_interval, paired_interval

SEEDS = 3


def score(records: Sequence[Judged], seeds: int = SEEDS, pictures: int | None = None) -> dict[str, Any]:
    """The figures, in JSON types; shares from 0 to 1.

    Args:
        seeds: how often random routing is drawn.
        pictures: so many pictures are drawn for each seed, and the model's figures too are means ± sd over seeds; None:
            all.

    Raises: ValueError where no token belongs to a phrase, or fewer pictures are there than wanted.
    """
    kept = [one for one in records if one.places]
    if not kept:
        raise ValueError("no token of any caption belongs to a phrase with a mask")
    if pictures is not None and pictures > len(records):
        raise ValueError(f"{pictures} pictures are wanted, but there are {len(records)}")
    layers, heads = kept[0].layers, kept[0].hits.shape[2]
    draws = [_drawn(records, seed, pictures) for seed in range(seeds)]
    layer, head = best = _best(kept)
    return {
        "pictures": len(records),
        "tokens": sum(len(one.places) for one in kept),
        "phrases_absent": sum(one.absent for one in records),
        "layers": [_layer(kept, draws, place, layer, heads) for place, layer in enumerate(layers)],
        "any_head_any_layer": _figure(kept, lambda one: one.hits.any((1, 2))),
        "best_head": {"layer": layers[layer], "head": head, **_figure(kept, lambda one: one.hits[:, layer, head])},
        "kinds": _kinds(kept, best),
        "counterfactual": _counterfactual(kept, records),
    }


def chance(one: Judged, layer: int) -> np.ndarray:
    """Probability [T] that K regions drawn at random hold one that overlaps the mask: 1 - C(R-h, K) / C(R, K)."""
    return np.array(
        [
            1 - math.comb(one.regions - int(own), int(k)) / math.comb(one.regions, int(k))
            for own, k in zip(one.overlapping, one.kept[:, layer], strict=True)
        ]
    )


def _drawn(records: Sequence[Judged], seed: int, pictures: int | None) -> tuple[np.random.Generator, list[Judged]]:
    generator = np.random.default_rng(seed)
    places = range(len(records)) if pictures is None else generator.permutation(len(records))[:pictures]
    return generator, [records[place] for place in places if records[place].places]


def _layer(
    kept: Sequence[Judged],
    draws: Sequence[tuple[np.random.Generator, list[Judged]]],
    place: int,
    layer: int,
    heads: int,
) -> dict[str, Any]:
    def mean_head(one: Judged) -> np.ndarray:
        return one.hits[:, place].mean(1)

    def any_head(one: Judged) -> np.ndarray:
        return one.hits[:, place].any(1)

    values: dict[str, Any] = {
        "layer": layer,
        "mean_head": _figure(kept, mean_head),
        "any_head": _figure(kept, any_head),
        "heads": np.concatenate([one.hits[:, place] for one in kept]).mean(0).tolist(),
        "mask_share": _figure(kept, lambda one: one.share[:, place].mean(1)),
        "random": {"expected": _mean(kept, lambda one: chance(one, place))},
        "random_any_head": {"expected": _mean(kept, lambda one: 1 - (1 - chance(one, place)) ** heads)},
        "random_mask_share": _mean(kept, lambda one: one.kept[:, place] / one.regions),
    }
    random, random_any, model, model_any = [], [], [], []
    for generator, drawn in draws:
        if not drawn:
            continue
        hits = [generator.random((len(one.places), heads)) < chance(one, place)[:, None] for one in drawn]
        random.append(float(np.concatenate(hits)[:, 0].mean()))  # one head, as many tokens
        random_any.append(float(np.concatenate(hits).any(1).mean()))
        model.append(_mean(drawn, mean_head))
        model_any.append(_mean(drawn, any_head))
    values["random"] |= _spread(random)
    values["random_any_head"] |= _spread(random_any)
    values["mean_head"] |= {"seeds": _spread(model)}
    values["any_head"] |= {"seeds": _spread(model_any)}
    return values


def _kinds(kept: Sequence[Judged], best: tuple[int, int]) -> dict[str, Any]:
    """The best head's and any head's figures for tokens of each kind of phrase, where kinds are given."""
    kinds = sorted({kind for one in kept for kind in one.kinds if kind})
    found = {}
    for kind in kinds:
        mine = [(one, np.array([other == kind for other in one.kinds])) for one in kept]
        mine = [(one, those) for one, those in mine if those.any()]
        layer, head = max(
            np.ndindex(kept[0].hits.shape[1:]),
            key=lambda where: sum(one.hits[those][:, where[0], where[1]].sum() for one, those in mine),
        )
        groups = [(float(one.hits[those, layer, head].sum()), int(those.sum())) for one, those in mine]
        overall = [(float(one.hits[those][:, best[0], best[1]].sum()), int(those.sum())) for one, those in mine]
        found[kind] = {
            "tokens": sum(n for _, n in groups),
            "overall_best_head": sum(hits for hits, _ in overall) / sum(n for _, n in overall),
            "own_best_head": {"layer": kept[0].layers[layer], "head": int(head), **_of_groups(groups)},
        }
    return found


def _counterfactual(kept: Sequence[Judged], records: Sequence[Judged]) -> dict[str, Any] | None:
    """Mean falls of the log-probability, over tokens; None where nothing was hidden."""
    own, others = [], []
    for one in kept:
        measured = ~np.isnan(one.drop)
        if measured.any():
            own.append((float(one.drop[measured].sum()), int(measured.sum())))
            others.append((float(one.drop_others[measured].sum()), int(measured.sum())))
    skipped = sum(one.not_compared for one in records)
    if not own:
        return {"tokens": 0, "phrases_not_compared": skipped} if skipped else None
    own_figure, others_figure = _of_groups(own), _of_groups(others)
    return {
        "tokens": sum(n for _, n in own),
        "phrases_not_compared": skipped,
        "own": own_figure,
        "others": others_figure,
        "difference": {
            "value": own_figure["value"] - others_figure["value"], "ci95": list(paired_interval(own, others)),
        },
    }  # fmt: skip


def _best(kept: Sequence[Judged]) -> tuple[int, int]:
    table = np.concatenate([one.hits for one in kept]).mean(0)
    layer, head = np.unravel_index(table.argmax(), table.shape)
    return int(layer), int(head)


def _figure(kept: Sequence[Judged], of: Callable[[Judged], np.ndarray]) -> dict[str, Any]:
    """Mean over tokens, with its interval over pictures."""
    return _of_groups([(float(of(one).sum()), len(one.places)) for one in kept])


def _of_groups(groups: Sequence[tuple[float, int]]) -> dict[str, Any]:
    value = sum(total for total, _ in groups) / sum(n for _, n in groups)
    return {"value": value, "ci95": list(bootstrap_interval(groups))}


def _mean(kept: Sequence[Judged], of: Callable[[Judged], np.ndarray]) -> float:
    return float(np.concatenate([of(one) for one in kept]).mean())


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}
