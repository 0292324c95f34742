"""Bootstrap confidence intervals over scoring groups.

Answers about one page (one image, one circular set) are not independent, so whole groups are drawn, not answers.
Groups of different strata (categories whose results are computed apart) are drawn within their stratum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Group = tuple[float, int]
"""(right answers, answers) of one scoring group."""
LEVEL = 0.95
DRAWS = 2000


def accuracy(groups: Sequence[Group]) -> float:
    """Right answers over answers, over all groups. Raises ValueError where there are none."""
    total = sum(n for _, n in groups)
    if total == 0:
        raise ValueError(f"no answers to score in {len(groups)} groups")
    return sum(right for right, _ in groups) / total


def bootstrap_interval(
    groups: Sequence[Group], level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of `accuracy` under resampling of groups with replacement; the same for the same seed."""
    right, total = _columns(groups)
    return percentiles(ratio_draws(right[:, None], total[:, None], draws, seed)[:, 0], level)


def paired_interval(
    groups: Sequence[Group], baseline: Sequence[Group], level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Interval of accuracy(groups) - accuracy(baseline), both arms drawn with the same groups.

    Raises: ValueError where the two arms do not hold the same groups in the same order.
    """
    right, total = _columns(groups)
    right_base, total_base = _columns(baseline)
    if len(right) != len(right_base) or (total != total_base).any():
        raise ValueError(f"paired arms must share their groups, got {len(right)} and {len(right_base)}")
    return percentiles(ratio_draws((right - right_base)[:, None], total[:, None], draws, seed)[:, 0], level)


def ratio_draws(right: np.ndarray, total: np.ndarray, draws: int = DRAWS, seed: int | Sequence[int] = 0) -> np.ndarray:
    """Σ right / Σ total of each figure in each resample of one stratum's groups: [draws, figures].

    Args:
        right, total: [groups, figures].
        seed: the same seed and number of groups draw the same groups, so that two runs can be compared in pairs.
    """
    weights = _resample(len(right), draws, seed)
    return (weights @ right) / (weights @ total)


def percentiles(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The ends of the middle `level` of the values."""
    import numpy as np

    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _columns(groups: Sequence[Group]) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    accuracy(groups)
    table = np.array([group for group in groups if group[1] > 0], dtype=np.float64)
    return table[:, 0], table[:, 1]


def _resample(count: int, draws: int, seed: int | Sequence[int]) -> np.ndarray:
    """How often each of `count` groups occurs in each of `draws` resamples: [draws, count]."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1.0 / count), size=draws).astype(np.float64)
