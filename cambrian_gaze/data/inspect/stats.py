"""Numbers that say how something is distributed, from counts of its values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cambrian_gaze.data.inspect.survey import Facts


def summary(counts: Mapping[int, int] | Mapping[float, int]) -> dict[str, float]:
    """count, mean, min, quantiles (p5, p25, median, p75, p95, p99) and max; empty without values.

    A quantile is the smallest value that so many of all values do not exceed.
    """
    if not counts:
        return {}
    values = np.array(sorted(counts))
    weights = np.array([counts[value] for value in values.tolist()])
    ends = np.cumsum(weights)
    shares = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
    places = {name: int(np.searchsorted(ends, share * ends[-1] - 1e-9)) for name, share in shares.items()}
    quantiles = {name: values[place].item() for name, place in places.items()}
    mean = float((values * weights).sum() / ends[-1])
    return {
        "count": int(ends[-1]), "mean": round(mean, 3), "min": values[0].item(), **quantiles, "max": values[-1].item(),
    }  # fmt: skip


def doubling_bins(counts: Mapping[int, int], first: int = 64) -> list[dict[str, int]]:
    """A histogram with bins [0, first), [first, 2·first), [2·first, 4·first), …, up to the largest value."""
    if not counts:
        return []
    number = 1 + max(0, math.floor(math.log2(max(counts) / first)) + 1 if max(counts) >= first else 0)
    edges = [0, *(first << i for i in range(number))]
    bins = [{"from": low, "to": high, "samples": 0} for low, high in zip(edges, edges[1:], strict=False)]
    for value, count in counts.items():
        bins[int(np.searchsorted(edges, value, side="right")) - 1]["samples"] += count
    return bins


def even_bins(counts: Mapping[Any, int], edges: Sequence[float]) -> list[int]:
    """How many values lie in [edges[i], edges[i + 1]); the last bin holds its upper edge, too. Others are left out."""
    values = np.array(list(counts), dtype=np.float64)
    weights = np.array(list(counts.values()), dtype=np.float64)
    return np.histogram(values, bins=np.asarray(edges), weights=weights)[0].astype(int).tolist()


def aspect_ratios(facts: Facts) -> dict[float, int]:
    """Width by height → images."""
    ratios: dict[float, int] = {}
    for (width, height), count in facts.sizes.items():
        ratio = width / height
        ratios[ratio] = ratios.get(ratio, 0) + count
    return ratios


def used_share(facts: Facts) -> float | None:
    """Mean share of the padded square that pictures fill, the rest being the processor's mean colour."""
    total = sum(facts.sizes.values())
    if not total:
        return None
    return sum(min(size) / max(size) * count for size, count in facts.sizes.items()) / total


def statistics(facts: Facts) -> dict[str, Any]:
    """Everything as numbers: tokens, visual tokens, frames, picture sizes and aspect ratios."""
    longer = {}
    for size, count in facts.sizes.items():
        longer[max(size)] = longer.get(max(size), 0) + count
    share = used_share(facts)
    return {
        "tokens": summary(facts.lengths),
        "visual_tokens": summary(facts.visual),
        "units": summary(facts.units),
        "frames_per_video": summary(facts.frames),
        "longer_side_px": summary(longer),
        "aspect_ratio": {key: round(value, 3) for key, value in summary(aspect_ratios(facts)).items()},
        "picture_share_of_padded_square": None if share is None else round(share, 4),
    }
