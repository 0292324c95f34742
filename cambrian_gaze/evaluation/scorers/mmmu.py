"""MMMU: the parent's rule and the benchmark's own parser, less its random guess: undecided is undecided.

A target holds `answer` (a letter; for open questions a list of accepted texts, or under the parent's rule the one text)
and `options` (letter → text; empty for open questions).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cambrian_gaze.evaluation.scorers.choices import after_prefixes, mcq1
from cambrian_gaze.evaluation.scorers.numbers import exact_or_near, number

Target = Mapping[str, Any]

KEY_WORDS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""What an open answer follows; only the shortest rest of each sentence is looked at."""
_SENTENCE = re.compile(r"\.\s(?=[A-Z])|\n")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
LONG_ANSWER = 5
"""From more words than this on, an option's text in the answer counts."""


def cambrian_mmmu(answer: str, target: Target) -> float:
    """Multiple choice by `mcq1`; open questions exact, or within 5 %. A list of answers is one text: as it is spelt."""
    if target["options"]:
        return float(mcq1(answer) == target["answer"].lower())
    return exact_or_near(after_prefixes(answer).rstrip("."), target["answer"].lower())


def official_mmmu(answer: str, target: Target) -> float | None:
    """The benchmark's parser; None where a choice cannot be told (which its own code would draw at random)."""
    if target["options"]:
        letter = parse_choice(answer, target["options"])
        return None if letter is None else float(letter == target["answer"])
    return float(open_answer_matches(answer, target["answer"]))


def parse_choice(answer: str, options: Mapping[str, str]) -> str | None:
    """The option named last: as "(B)", else as a lone "B", else as "B.", else (in a long answer) by its text."""
    text = f" {answer.strip(',.!?;: ' + chr(39))} "
    for form in ("({})", " {} ", "{}."):
        places = {letter: text.rfind(form.format(letter)) for letter in options}
        if max(places.values()) >= 0:
            return max(places, key=lambda letter: places[letter])
    if len(text.split()) <= LONG_ANSWER:
        return None
    places = {letter: text.lower().rfind(told.lower()) for letter, told in options.items() if told}
    return max(places, key=lambda letter: places[letter]) if places and max(places.values()) >= 0 else None


def open_answer_matches(answer: str, truths: list[str]) -> bool:
    """A truth stands in a key part of the answer, or equals one of its numbers (both to two decimals)."""
    wanted = [form for truth in truths for form in _forms(truth)]
    for part in _key_parts(answer):
        for text in [part, *(found for pattern in _NUMBERS for found in pattern.findall(part))]:
            for given in _forms(text):
                if isinstance(given, float):
                    if given in wanted:
                        return True
                elif any(isinstance(form, str) and form in given for form in wanted):
                    return True
    return False


def _key_parts(answer: str) -> list[str]:
    whole = answer.strip().strip(".")
    sentences = _SENTENCE.split(whole)
    parts = []
    for place, sentence in enumerate(sentences):
        sentence = sentence.lower()
        words = [*KEY_WORDS, "="] if place == len(sentences) - 1 else KEY_WORDS
        rests = [sentence.split(word)[-1].strip() for word in words if word in sentence]
        if rests and (shortest := min(rests, key=len)) not in ("", *":,.!?;'"):
            parts.append(shortest)
    return parts or [whole.lower()]


def _forms(text: str) -> list[str | float]:
    """A number to two decimals, or the text in lower case; a single character only beside a blank."""
    text = text.strip()
    value = number(text.replace(",", ""))
    if value is not None:
        return [round(value, 2)]
    text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text] if text else []
