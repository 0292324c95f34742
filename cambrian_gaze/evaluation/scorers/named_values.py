"""Scorer of answers that name each value first, such as "Read B3 7 A1 4" or "Count zeros 2 ones 0"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

PAIR = re.compile(r"(?<!\w)([A-Za-z]\w*)\s+(-?\d+)(?![\w]|\.\d)")


class NamedValue(NamedTuple):
    """One value of an answer."""

    name: str
    value: int
    place: int
    """Where the value's first character stands in the answer."""


def named_values(answer: str) -> list[NamedValue]:
    """The values of an answer in order: a name, white space, a whole number."""
    return [NamedValue(match[1], int(match[2]), match.start(2)) for match in PAIR.finditer(answer)]


def score_named_values(answer: str, target: Sequence[tuple[str, int]]) -> dict[str, bool]:
    """Whether each name of `target` has its value in the answer.

    A missing name is wrong, a name that was not asked for is ignored, and where a name occurs more than once its first
    value counts.
    """
    found: dict[str, int] = {}
    for name, value, _ in named_values(answer):
        found.setdefault(name, value)
    return {name: found.get(name) == value for name, value in target}
