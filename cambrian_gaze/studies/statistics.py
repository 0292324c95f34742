"""What raw results say: accuracies with intervals over seeds and questions, and differences between arms in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cambrian_gaze.evaluation.tables.intervals import DRAWS, percentiles, ratio_draws

if TYPE_CHECKING:
    import numpy as np

PERMUTATIONS = 10_000


@dataclass(frozen=True)
class Estimate:
    """A share of right values with its 95 % interval."""

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    n: int
    """Values judged."""


@dataclass(frozen=True)
class Difference:
    """How much more of the values one arm has right than another, on the same questions."""

    value: float
    low: float
    high: float
    p: float
    """Of a sign-flip test over questions, two-sided; not below 1 / (draws + 1)."""


def families(results: Mapping[str, Any]) -> list[str]:
    """The families that were asked."""
    first = next(iter(results["seeds"].values()))
    return list(next(iter(first["arms"].values()))["right"])


def right_of(
    results: Mapping[str, Any], arm: str, family: str, places: slice = slice(None)
) -> list[tuple[np.ndarray, np.ndarray]]:
    """By seed, (right values, values) of each question: [questions] each. places: which values of an answer."""
    import numpy as np

    found = []
    for seed in results["seeds"].values():
        texts = [text[places] for text in seed["arms"][arm]["right"][family]]
        found.append((np.array([t.count("1") for t in texts], float), np.array([len(t) for t in texts], float)))
    return found


def estimate(results: Mapping[str, Any], arm: str, family: str, places: slice = slice(None)) -> Estimate:
    """An arm's accuracy on a family. Raises ValueError where no question has values at these places."""
    seeds = right_of(results, arm, family, places)
    if not any(n.sum() for _, n in seeds):
        raise ValueError(f"{arm}: no answer of {family} has values at {places}")
    return estimate_of(seeds)


def estimate_of(seeds: Sequence[tuple[np.ndarray, np.ndarray]]) -> Estimate:
    """Of (right values, values) of each question by seed, as `right_of` returns them; each seed must have values."""
    total = sum(float(n.sum()) for _, n in seeds)
    low, high = percentiles(two_level_draws(seeds))
    value = sum(float(right.sum()) for right, _ in seeds) / total
    return Estimate(value, low, high, tuple(float(r.sum() / n.sum()) for r, n in seeds), int(total))


def difference(
    results: Mapping[str, Any], arm: str, other: str, family: str, places: slice = slice(None)
) -> Difference:
    """`arm` less `other`, both asked the same questions of the same seeds."""
    import numpy as np

    pairs = [
        (mine - theirs, n)
        for (mine, n), (theirs, _) in zip(
            right_of(results, arm, family, places), right_of(results, other, family, places), strict=True
        )
    ]
    low, high = percentiles(two_level_draws(pairs))
    value = sum(d.sum() for d, _ in pairs) / sum(n.sum() for _, n in pairs)
    gaps = np.concatenate([d for d, _ in pairs])
    gaps = gaps[gaps != 0]
    rng = np.random.default_rng(0)
    flips = rng.choice((-1.0, 1.0), size=(PERMUTATIONS, len(gaps))) @ gaps if len(gaps) else np.zeros(PERMUTATIONS)
    p = (1 + int((abs(flips) >= abs(gaps.sum()) - 1e-9).sum())) / (PERMUTATIONS + 1)
    return Difference(float(value), low, high, p)


def two_level_draws(seeds: Sequence[tuple[np.ndarray, np.ndarray]], draws: int = DRAWS) -> np.ndarray:
    """Σ right / Σ values of resamples: seeds are drawn with replacement, and the questions within each [draws].

    With one seed it is the bootstrap over questions alone.
    """
    import numpy as np

    rng = np.random.default_rng([1, 0])
    drawn = rng.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=draws)
    top, bottom = np.zeros(draws), np.zeros(draws)
    for place, (right, n) in enumerate(seeds):
        shares = ratio_draws(right[:, None], n[:, None], draws, seed=[2, place])[:, 0]
        weight = drawn[:, place] * n.sum()
        top, bottom = top + weight * shares, bottom + weight
    return top / bottom


def values_per_answer(results: Mapping[str, Any], family: str) -> int:
    """The most values that an answer of a family has."""
    first = next(iter(results["seeds"].values()))
    return max(len(text) for text in next(iter(first["arms"].values()))["right"][family])


def seen(results: Mapping[str, Any], arm: str, name: str) -> float:
    """Mean over seeds of `visible`, `context`, `retained` or `of`."""
    values = [seed["arms"][arm][name] for seed in results["seeds"].values()]
    return sum(values) / len(values)
