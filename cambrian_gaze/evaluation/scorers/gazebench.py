"""GazeBench's scorer: which values of an answer are right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LEADS = frozenset(("answer", "cell", "count", "find", "hop", "read", "row", "the", "is"))
"""Words that may stand before the values."""


def right_values(answer: str, target: Mapping[str, Any]) -> list[bool]:
    """For each of the target's `values` ({"name", "value"}) whether the answer has it.

    A value with a name is the word behind the first occurrence of that name, and no name of another; one without a name
    is looked for at its place among the answer's words, `LEADS` and what was `given` apart. A value that is asked alone
    needs no name. Case does not matter, nor whether the digits of a string stand apart.
    """
    words = re.findall(r"\w+", answer.casefold())
    values = target["values"]
    behind = _behind(words, {one["name"].casefold() for one in values} - {""})
    while words and words[0] in LEADS | {target["given"].casefold()}:
        words = words[1:]
    unnamed = sum(not one["name"] for one in values)
    if len(words) < unnamed and words and all(len(one["value"]) == 1 for one in values):
        words = list("".join(words))
    right = []
    for place, one in enumerate(values):
        found = behind.get(one["name"].casefold())
        if found is None and (not one["name"] or len(values) == 1):
            found = words[place] if place < len(words) else None
        right.append(found == one["value"].casefold())
    return right


def _behind(words: list[str], names: set[str]) -> dict[str, str]:
    """Name → the word behind it. That word is a value, though it may look like a name: "Count 3 2 2 1"."""
    behind: dict[str, str] = {}
    place = 0
    while place + 1 < len(words):
        name = words[place]
        if name in names and name not in behind:
            behind[name] = words[place + 1]
            place += 1
        place += 1
    return behind


def score_values(answer: str, target: Mapping[str, Any]) -> float:
    """The share of the values that are right."""
    right = right_values(answer, target)
    return sum(right) / len(right)
