"""Scorers of numbers: relaxed correctness (ChartQA) and mean relative accuracy (VSI-Bench)."""

from __future__ import annotations

import math
import re
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


NUMBER_WORDS = (
    {
        word: value
        for value, word in enumerate(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen".split()
        )
    }
    | {word: 10 * tens for tens, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
    | {"hundred": 100, "thousand": 1000}
)
_FIGURES = re.compile(r"-?\d+(?:\.\d+)?")


def first_number(text: str) -> float | None:
    """The first number of a text, in figures or in English words ("twenty-one", "two hundred and five"); None where
    there is none. As in VSI-Bench's evaluation of lmms-eval 0.7.3."""
    text = text.lower()
    figures = _FIGURES.search(text)
    words = [match for match in re.finditer(r"[a-z]+", text)]
    start = next((place for place, match in enumerate(words) if match[0] in NUMBER_WORDS), None)
    if start is None or (figures is not None and figures.start() < words[start].start()):
        return None if figures is None else float(figures[0])
    total = current = 0
    for match in words[start:]:
        if match[0] == "and":
            continue
        if match[0] not in NUMBER_WORDS:
            break
        value = NUMBER_WORDS[match[0]]
        if value == 1000:
            total, current = total + 1000 * max(current, 1), 0
        else:
            current = 100 * max(current, 1) if value == 100 else current + value
    return float(total + current)


def near(given: float, truth: float) -> bool:
    """|given - truth| is at most 5 % of |truth|."""
    return abs(given - truth) <= TOLERANCE * abs(truth)


def exact_or_near(given: str, truth: str) -> float:
    """Equal as texts, or both numbers and `near`."""
    a, b = number(given), number(truth)
    return float(given == truth or (a is not None and b is not None and near(a, b)))


def cambrian_relaxed(answer: str, target: Target) -> float:
    """Both numbers: within 5 %; else equal in lower case. A final full stop counts, unless it ends a number."""
    given, truth = answer.strip().lower(), str(target["answer"]).lower()
    try:
        return float(near(float(given), float(truth)))  # not a number is near nothing
    except ValueError:
        return float(given == truth)


def official_relaxed(answer: str, target: Target) -> float:
    """As ChartQA defines it: "%" divides by 100, a truth of 0 is compared as text, so is what is no plain number."""
    given, truth = answer.strip(), str(target["answer"]).strip()
    a, b = _percent(given), _percent(truth)
    if a is not None and b:
        return float(near(a, b))
    return float(given.lower() == truth.lower())


def _percent(text: str) -> float | None:
    """A number, divided by 100 where "%" ends it; not a number ("nan") is one too, and near nothing."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def mean_relative_accuracy(given: float, truth: float) -> float:
    """Share of THRESHOLDS θ with |given - truth| / |truth| ≤ 1 - θ. A truth of 0 allows nothing but 0."""
    if truth == 0:
        return float(given == 0)
    error = abs(given - truth) / abs(truth)
    # The thresholds are multiples of 1/20: an error of exactly 0.1 counts at 0.9, whatever binary fractions say.
    return sum(error <= 1 - threshold + 1e-9 for threshold in THRESHOLDS) / len(THRESHOLDS)
