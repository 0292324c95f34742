"""What an epoch reads: rows of a mixture, shuffled and packed, as a function of seed and epoch alone; and its packs,
read with the places of unreadable samples filled.

The plan of an epoch is fixed before it begins. A row that turns out to be unreadable keeps its place in it, and another
row of the plan is read in its place, so that what every step sees follows from the data alone, whatever the number of
workers and ranks. The filler comes again in its own place.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from cambrian_gaze.data.mixture.packing import WINDOW, Packs, one_by_one, pack
from cambrian_gaze.data.quarantine import Quarantined, QuarantineLog
from cambrian_gaze.data.records.records import Record

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


class RowDataset(Protocol):
    """What a plan needs of a dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any] | Quarantined: ...

    def record(self, index: int) -> Record:
        """What item `index` is made of."""


class PlannedDataset(Dataset):
    """Reads draws: item `Draw` is its `Pack`."""

    def __init__(
        self, dataset: RowDataset, capacity: int | None = None, quarantine: QuarantineLog | None = None
    ) -> None:
        """`dataset` maps a row of the mixture to a sample or a `Quarantined`. `capacity`: most tokens of a pack.
        `quarantine` is the log that `dataset` writes to; fills are logged beside it."""
        self.dataset, self.capacity, self.quarantine = dataset, capacity, quarantine

    def __len__(self) -> int:
        """Rows of the mixture."""
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Pack:
        if self.quarantine is not None:
            self.quarantine.step = draw.step
        room = math.inf if self.capacity is None else self.capacity
        found = []
        for row in draw.rows:
            sample = self.dataset[row]
            if not isinstance(sample, Quarantined):
                if len(sample["input_ids"]) > room:
                    sample = self._too_long_by_now(row, sample)
                else:
                    room -= len(sample["input_ids"])
            found.append(sample)
        samples, lost, filled = [], [], 0
        reserves = iter(draw.reserves)
        for sample in found:
            if isinstance(sample, Quarantined):
                lost.append(sample)
                sample = self._filler(sample, reserves, room)
                if sample is None:
                    continue
                filled += 1
                room -= len(sample["input_ids"])
            samples.append(sample)
        return Pack(samples, lost, filled)

    def _filler(self, lost: Quarantined, reserves: Iterator[int], room: float) -> dict[str, Any] | None:
        """The next reserve that can be read and fits, or None."""
        for row in reserves:
            sample = self.dataset[row]
            if isinstance(sample, Quarantined) or len(sample["input_ids"]) > room:
                continue
            if self.quarantine is not None:
                self.quarantine.add_fill(lost, self.dataset.record(row))
            return sample
        return None

    def _too_long_by_now(self, row: int, sample: dict[str, Any]) -> Quarantined:
        """The table of lengths that packs were made by says less."""
        record = self.dataset.record(row)
        reason = (
            f"its {len(sample['input_ids'])} tokens do not fit into the pack that was made for it: its video has "
            "changed since tokens were counted. Remedy: restore the video, or delete the table of lengths"
        )
        item = Quarantined(record.file, record.row, record.id, reason, sample.get("source", ""))
        if self.quarantine is not None:
            self.quarantine.add(item)
        return item
