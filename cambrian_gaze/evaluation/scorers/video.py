"""Scorers of video benchmarks. A target holds `answer` (a letter, or a number as text) and `options` by letter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cambrian_gaze.evaluation.scorers.choices import option_letter
from cambrian_gaze.evaluation.scorers.numbers import first_number, mean_relative_accuracy, number

Target = Mapping[str, Any]

PREFIXES = (
    "the best answer is",
    "the correct answer is",
    "the answer is",
    "the answer",
    "the best option is",
    "the correct option is",
    "best answer:",
    "best option:",
    "answer:",
    "option:",
)
"""What may stand before the letter, longest first where one begins another."""


def first_letter(answer: str, target: Target) -> float | None:
    """The first option letter that stands by itself, prefixes gone (Video-MME, LongVideoBench, MLVU)."""
    text = answer.strip()
    for prefix in PREFIXES:
        text = re.sub(rf"^{re.escape(prefix)}\s*:?\s*", "", text, flags=re.IGNORECASE)
    return _standing_alone(text, target)


def lone_letter(answer: str, target: Target) -> float | None:
    """The first letter between word borders (PerceptionTest, EgoSchema)."""
    return _standing_alone(answer, target)


def named_option(answer: str, target: Target) -> float | None:
    """A letter at the start, "B", "(B)" or "B.", or else the one option that the answer names (MVBench)."""
    letters = "".join(target["options"])
    start = re.match(rf"\s*\(?([{letters}])(?:[).:,\s]|$)", answer) if letters else None
    if start:
        return float(start[1] == target["answer"])
    letter = option_letter(answer, target["options"])
    return None if letter is None else float(letter == target["answer"])


def vsi(answer: str, target: Target) -> float | None:
    """Multiple choice: the first token is the letter. Numbers: mean relative accuracy of the first token,
    in figures or words."""
    tokens = answer.split()
    if not tokens:
        return None
    first = tokens[0].rstrip(".").strip()
    if target["options"]:
        return float(first.lower() == target["answer"].lower())
    given, truth = number(first), number(target["answer"])
    given = first_number(first) if given is None else given
    if truth is None:
        raise ValueError(f"the truth of a numeric question is {target['answer']!r}, which is no number")
    return None if given is None else mean_relative_accuracy(given, truth)


def _standing_alone(text: str, target: Target) -> float | None:
    """The first option letter between word borders; None where there is none, or no options were found."""
    letters = "".join(target["options"])
    match = re.search(rf"\b([{letters}])\b", text) if letters else None
    return None if match is None else float(match[1] == target["answer"])
