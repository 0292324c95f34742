"""MathVista: the parent's whole-output match, and an extraction of the answer from prose without a judge model.

A target holds `answer` (a letter for multiple choice, else the text), `options` (letter → text, empty for free form),
`type` ("text", "integer", "float" or "list") and `precision` (decimals of a float, or None).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from cambrian_gaze.evaluation.scorers.choices import option_letter
from cambrian_gaze.evaluation.scorers.numbers import exact_or_near, number

Target = Mapping[str, Any]

NEAREST = 0.6
"""Least similarity (0 to 1) at which the nearest choice is taken for the answer."""
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][+-]?\d+)?")
_BRACKETED = re.compile(r"\(([A-Z])\)")
_LIST = re.compile(r"\[[^\[\]]*\]")


def cambrian_mathvista(answer: str, target: Target) -> float:
    """The whole output in lower case is the letter or text, or both are numbers within 5 %."""
    return exact_or_near(answer.lower().strip(), str(target["answer"]).lower())


def official_mathvista(answer: str, target: Target) -> float | None:
    """The extracted answer equals the truth; None where none could be extracted."""
    if target["options"]:
        letter = extract_choice(answer, target["options"])
        return None if letter is None else float(letter == target["answer"])
    given = extract_value(answer, target["type"])
    if given is None:
        return None
    return float(_same(given, str(target["answer"]), target["type"], target["precision"]))


def extract_choice(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter that an answer means: a text or number that is a choice, the last "(X)", a lone letter or a text
    inside, and last the nearest choice where it is near enough."""
    text = answer.strip().rstrip(".").strip()
    if not text:
        return None
    same = [letter for letter, option in options.items() if option.strip().lower() == text.lower()]
    if not same and (value := number(text)) is not None:
        same = [letter for letter, option in options.items() if number(option) == value]
    if len(same) == 1:
        return same[0]
    bracketed = [letter for letter in _BRACKETED.findall(answer) if letter in options]
    if bracketed:
        return bracketed[-1]
    named = option_letter(answer, options)
    if named is not None:
        return named
    ratios = {
        letter: difflib.SequenceMatcher(None, text.lower(), option.lower()).ratio()
        for letter, option in options.items()
    }
    best = max(ratios, key=lambda letter: ratios[letter])
    return best if ratios[best] >= NEAREST else None


def extract_value(answer: str, kind: str) -> str | None:
    """The number, list or text that a free-form answer gives: the whole where it fits, else the last in the prose."""
    text = answer.strip().rstrip(".").strip()
    if kind == "list":
        found = _LIST.findall(text)
        return found[-1] if found else None
    if kind == "text" or number(text) is not None:
        return text or None
    found = _NUMBER.findall(text)
    return found[-1].replace(",", "") if found else None


def _same(given: str, truth: str, kind: str, precision: float | None) -> bool:
    a, b = number(given), number(truth)
    if kind == "integer" and a is not None and b is not None:
        return int(a) == int(b)
    if kind == "float" and a is not None and b is not None:
        places = int(precision or 0)
        return round(a, places) == round(b, places)
    squeeze = str.maketrans("", "", " \n")
    return given.translate(squeeze).lower() == truth.translate(squeeze).lower()
