"""The task of the quickstart in words: pages of 4x4 cells, questions about them, answers.

A `read` question is a form to fill in: cells in any order, each with a blank. Its answer repeats every address before
the value, so the next place to look at is part of the text that the model has written, and a model that reads a page
must move its gaze from token to token. A `count` question is about the page as a whole: no region answers it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

ROWS = "ABCD"
COLUMNS = "1234"
ADDRESSES = tuple(f"{row}{column}" for row in ROWS for column in COLUMNS)
"""Cell names in raster order: cell i of a page is ADDRESSES[i]."""

NUMBER_WORDS = ("zeros", "ones", "twos", "threes", "fours", "fives", "sixes", "sevens", "eights", "nines")


@dataclass(frozen=True)
class DigitQuestion:
    """One question about one page, with its answer and what a scorer needs."""

    family: str
    """`read` (the values of named cells) or `count` (how many cells hold each digit)."""
    prompt: str
    answer: str
    target: tuple[tuple[str, int], ...]
    """(address, value) in the order asked, or (digit word, count) from zeros to nines."""


def read_question(digits: Sequence[int], order: Sequence[int]) -> DigitQuestion:
    """Ask for the cells `order` (places in raster order) of a page whose cells hold `digits` (16 values)."""
    target = tuple((ADDRESSES[i], int(digits[i])) for i in order)
    prompt = "Read " + " ".join(f"{address} _" for address, _ in target)
    return DigitQuestion("read", prompt, f"Read {_listed(target)}", target)


def count_question(digits: Sequence[int]) -> DigitQuestion:
    """Ask how often each digit is on the page."""
    counts = [sum(int(value) == digit for value in digits) for digit in range(10)]
    target = tuple(zip(NUMBER_WORDS, counts, strict=True))
    return DigitQuestion("count", "How many of each?", f"Count {_listed(target)}", target)


def draw_question(digits: Sequence[int], family: str, cells: int, rng: random.Random) -> DigitQuestion:
    """Draw a question of `family`; a `read` question asks for `cells` different cells."""
    if family == "read":
        return read_question(digits, rng.sample(range(len(ADDRESSES)), cells))
    if family == "count":
        return count_question(digits)
    raise ValueError(f"unknown question family {family!r}; known: read, count")


def _listed(target: Sequence[tuple[str, int]]) -> str:
    return " ".join(f"{name} {value}" for name, value in target)
