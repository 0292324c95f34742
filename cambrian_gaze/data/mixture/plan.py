"""What an epoch reads: rows of a mixture, shuffled and packed, as a function of seed and epoch alone.

The plan of an epoch is fixed before it begins. A row that turns out to be unreadable keeps its place in it, and another
row of the plan is read instead (`mixture.PlannedDataset`), so that what every step sees follows from the data alone,
whatever the number of workers and ranks. That other row comes again in its own place.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cambrian_gaze.data.mixture.packing import WINDOW, Packs, one_by_one, pack
from cambrian_gaze.data.quarantine import Quarantined

RESERVES = 16
"""Rows that are tried in the place of an unreadable one."""

_LOOK_AHEAD = 256
"""Rows of the plan after a pack among which those are sought that fit."""


@dataclass(frozen=True)
class Draw:
    """One row of a batch, as the loader asks a worker for it."""

    rows: tuple[int, ...]
    """Rows of the mixture."""
    reserves: tuple[int, ...] = ()
    """Rows that follow in the plan, in its order, to fill the places of unreadable ones."""
    step: int | None = None
    """Optimizer step, from 1, that it is for."""


@dataclass(frozen=True)
class Pack:
    """The samples of one row of a batch, and what became of those that are not among them."""

    samples: list[dict[str, Any]]
    lost: list[Quarantined] = field(default_factory=list)
    filled: int = 0
    """How many of the lost ones another sample stands in for."""
    stream_state: str | None = None
    """Of streamed data, see `streams.py`."""


class EpochOrder:
    """The plans of all epochs."""

    def __init__(
        self,
        rows: np.ndarray | int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        lengths: np.ndarray | None = None,
        capacity: int | None = None,
        units: np.ndarray | None = None,
        left_out: Mapping[str, int] | None = None,
        window: int = WINDOW,
    ) -> None:
        """Args:
            rows: int64 [n], the rows of the mixture that are read, or how many there are.
            lengths: int [rows of the mixture], tokens of each row; packs hold up to `capacity` of them. Without it each
                row is a pack of its own.
            units: int [rows of the mixture], images and frames of each row.
            left_out: reason → how many rows are not among these, for reports.

        Raises: ValueError where there is nothing to read.
        """
        self.rows = np.arange(rows) if isinstance(rows, int) else rows
        if not len(self.rows):
            raise ValueError("the training data holds no sample that may be read")
        if (lengths is None) != (capacity is None):
            raise ValueError("packing needs the lengths of the samples and the capacity of a pack")
        self.seed, self.shuffle, self.window = seed, shuffle, window
        self.lengths, self.capacity, self.units = lengths, capacity, units
        self.left_out = dict(left_out or {})
        self._plan: tuple[int, Packs] | None = None
        self._sizes: dict[int, int] = {}

    @property
    def packed(self) -> bool:
        """Whether a row of a batch may hold several samples."""
        return self.lengths is not None

    def plan(self, epoch: int) -> Packs:
        """The packs of an epoch in the order in which they are read. The last one asked for is kept."""
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, self._make(epoch))
            self._sizes[epoch] = len(self._plan[1])
        return self._plan[1]

    def num_packs(self, epoch: int) -> int:
        """Packs of an epoch; of packed epochs the numbers may differ slightly."""
        if not self.packed:
            return len(self.rows)
        if epoch not in self._sizes:
            self.plan(epoch)
        return self._sizes[epoch]

    def _make(self, epoch: int) -> Packs:
        seed = (self.seed * 1_000_003 + epoch) % 2**63
        rows = self.rows
        if self.shuffle:
            rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).numpy()]
        if self.lengths is None or self.capacity is None:
            return one_by_one(rows)
        return pack(rows, self.lengths[rows], self.capacity, window=self.window, seed=seed if self.shuffle else None)

    def draw(self, epoch: int, number: int, step: int | None = None) -> Draw:
        """Pack `number` of an epoch. Reserves are the next rows of the plan, after its last the first ones."""
        plan = self.plan(epoch)
        rows, end = plan[number], int(plan.starts[number + 1])
        ahead = min(_LOOK_AHEAD if self.packed else RESERVES, len(plan.rows) - len(rows))
        after = plan.rows[np.arange(end, end + ahead) % len(plan.rows)]
        if self.lengths is not None and self.capacity is not None:
            taken = self.lengths[rows]
            after = after[self.lengths[after] <= self.capacity - (int(taken.sum()) - int(taken.max()))]
        return Draw(tuple(rows.tolist()), tuple(after[:RESERVES].tolist()), step)

    def fingerprint(self) -> dict[str, Any]:
        """What the plans depend on, for a resumed run to compare with."""
        facts: dict[str, Any] = {"seed": self.seed, "shuffle": self.shuffle, "rows": len(self.rows)}
        facts["rows_crc"] = zlib.crc32(np.ascontiguousarray(self.rows, dtype=np.int64).data)
        if self.lengths is not None:
            facts |= {"max_length": self.capacity, "packing_window": self.window}
            facts["lengths_crc"] = zlib.crc32(np.ascontiguousarray(self.lengths[self.rows], dtype=np.int32).data)
        return facts
