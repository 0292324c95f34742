"""Which part of a file is seen in an epoch, and how often: LLaVA-NeXT's sampling strategies, weights and shares."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

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
