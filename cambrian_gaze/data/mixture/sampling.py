"""Which rows of a file are seen in an epoch: LLaVA-NeXT's sampling strategies, weights, and the rows they choose."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

_STRATEGY = re.compile(r"(first|end|random):(\d+(?:\.\d+)?)(%?)")


@dataclass(frozen=True)
class Sampling:
    """A part of a file's rows, and how often it is seen in an epoch."""

    kind: Literal["all", "first", "end", "random"] = "all"
    """Which part: the first rows, the last ones, or rows drawn with the recipe's seed."""
    amount: float | None = None
    """Rows, or percent of the file's rows (rounded up), see `percent`."""
    percent: bool = False
    weight: float = 1.0
    """How often each row of the part is seen in an epoch. Of 2.25, the quarter is drawn once, with the recipe's seed,
    and is the same in every epoch, so that epochs are of one length."""
    share: float | None = None
    """Share of the mixture's rows instead of a weight, in (0, 1); see `Mixture`."""

    @staticmethod
    def parse(strategy: str) -> Sampling:
        """`all`, `first:N`, `end:N`, `random:N`, each N also as a percentage: `random:20%`. Raises ValueError."""
        if strategy == "all":
            return Sampling()
        match = _STRATEGY.fullmatch(strategy.replace(" ", ""))
        if match is None:
            raise ValueError(f"{strategy!r} is no sampling strategy; use all, first:N, end:N, random:N or random:N%")
        kind, amount, percent = match[1], float(match[2]), bool(match[3])
        if amount == 0 or (percent and amount > 100) or (not percent and amount != int(amount)):
            wanted = "a percentage in (0, 100]" if percent else "a positive number of rows"
            raise ValueError(f"{strategy!r} needs {wanted}")
        return Sampling(kind, amount, percent)  # type: ignore[arg-type]

    def __str__(self) -> str:
        part = "all" if self.amount is None else f"{self.kind}:{self.amount:g}{'%' if self.percent else ''}"
        often = f", share {self.share:g}" if self.share is not None else f", weight {self.weight:g}"
        return part + ("" if often == ", weight 1" else often)

    def part_of(self, num_rows: int) -> int:
        """How many of `num_rows` rows are in the part. Raises ValueError where the file has fewer than asked for."""
        if self.amount is None:
            return num_rows
        if self.percent:
            return math.ceil(self.amount * num_rows / 100)
        if self.amount > num_rows:
            raise ValueError(f"{self} asks for {self.amount:,.0f} rows of {num_rows:,}; lower it, or use all")
        return int(self.amount)


class ChosenRows:
    """The rows of one file in the order in which an epoch lists them: `rows(positions)` for positions below `len`.

    Memory: nothing for `all`, `first` and `end` with a whole weight, otherwise 8 bytes per row that was drawn.
    """

    def __init__(self, num_rows: int, sampling: Sampling, weight: float, seed: Sequence[int]) -> None:
        """`weight` is `sampling.weight`, or what a share comes to. `seed`: integers; equal ones draw equal rows."""
        generator = np.random.default_rng(seed)
        self._part = sampling.part_of(num_rows)
        self._first = num_rows - self._part if sampling.kind == "end" else 0
        self._drawn: np.ndarray | None = None
        if sampling.kind == "random":
            self._drawn = _draw(generator, num_rows, self._part)
        whole = int(weight + 1e-9)
        self._whole = whole * self._part
        more = min(self._part, round((weight - whole) * self._part))
        self._more = _draw(generator, self._part, more)

    def __len__(self) -> int:
        return self._whole + len(self._more)

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """int64 positions → int64 row numbers of the file, from 0."""
        inner = positions % max(self._part, 1)
        drawn_again = positions >= self._whole
        if drawn_again.any():
            inner = inner.copy()
            inner[drawn_again] = self._more[positions[drawn_again] - self._whole]
        return self._first + inner if self._drawn is None else self._drawn[inner]


def _draw(generator: np.random.Generator, of: int, count: int) -> np.ndarray:
    """`count` different numbers below `of`, ascending: reading a file forward is what disks like."""
    drawn = generator.choice(of, count, replace=False, shuffle=False) if count else np.empty(0, np.int64)
    return np.sort(drawn.astype(np.int64))
