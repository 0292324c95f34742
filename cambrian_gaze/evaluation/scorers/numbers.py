"""Scorers of numbers: relaxed correctness (ChartQA) and mean relative accuracy (VSI-Bench)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Target = Mapping[str, Any]

TOLERANCE = 0.05
"""Relative error that still counts as right."""
THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))
"""Confidences of mean relative accuracy: 0.5, 0.55, …, 0.95."""


def number(text: str) -> float | None:
    """The finite number that a text is; None where it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def near(given: float, truth: float) -> bool:
    """|given - truth| is at most 5 % of |truth|."""
    return abs(given - truth) <= TOLERANCE * abs(truth)


def exact_or_near(given: str, truth: str) -> float:
    """Equal as texts, or both numbers and `near`."""
    a, b = number(given), number(truth)
    return float(given == truth or (a is not None and b is not None and near(a, b)))


def cambrian_relaxed(answer: str, target: Target) -> float:
    """Both numbers: within 5 %; else equal in lower case, final full stops gone."""
    given, truth = answer.strip().lower().rstrip("."), str(target["answer"]).strip().lower()
    a, b = number(given), number(truth)
    if a is not None and b is not None:
        return float(near(a, b))
    return float(given == truth)


def official_relaxed(answer: str, target: Target) -> float:
    """As ChartQA defines it: "%" divides by 100, a truth of 0 is compared as text, so is what is no plain number."""
    given, truth = answer.strip(), str(target["answer"]).strip()
    a, b = _percent(given), _percent(truth)
    if a is not None and b:
        return float(near(a, b))
    return float(given.lower() == truth.lower())


def _percent(text: str) -> float | None:
    if text.endswith("%"):
        value = number(text.rstrip("%"))
        return None if value is None else value / 100
    return number(text)


def mean_relative_accuracy(given: float, truth: float) -> float:
    """Share of THRESHOLDS θ with |given - truth| / |truth| ≤ 1 - θ. A truth of 0 allows nothing but 0."""
    if truth == 0:
        return float(given == 0)
    error = abs(given - truth) / abs(truth)
    # The thresholds are multiples of 1/20: an error of exactly 0.1 counts at 0.9, whatever binary fractions say.
    return sum(error <= 1 - threshold + 1e-9 for threshold in THRESHOLDS) / len(THRESHOLDS)
