"""Mixtures: which rows of each source an epoch reads, how often, the sample of row i of the whole, and the packs of an
epoch's plan, read with other rows in the places of unreadable ones.

Nothing here holds a row: a source opens its file through the index, a mixture holds what was drawn, as numpy arrays.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from cambrian_gaze.data.dataset import ConversationDataset, Sample, SampleOptions
from cambrian_gaze.data.mixture.plan import Draw, Pack
from cambrian_gaze.data.mixture.recipe import Recipe
from cambrian_gaze.data.mixture.recipe_file import RecipeError
from cambrian_gaze.data.mixture.sampling import Sampling
from cambrian_gaze.data.quarantine import Quarantined, QuarantineLog
from cambrian_gaze.data.records.records import Record


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


class MixtureDataset(Dataset):
    """Map-style over the rows of an epoch; samples and `Quarantined` carry `source`, the name of their source."""

    def __init__(
        self,
        mixture: Mixture,
        processor: Any,
        options: SampleOptions | None = None,
        quarantine: QuarantineLog | None = None,
    ) -> None:
        self.mixture = mixture
        self.parts = [
            ConversationDataset(
                records,
                processor,
                source.image_folder,
                source.video_folder,
                source=source.name,
                expects_missing=bool(source.expected.get("missing")),
                options=options,
                quarantine=quarantine,
            )
            for source, records in zip(mixture.sources, mixture.records, strict=True)
        ]
        """Per source the dataset of all its rows."""

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, index: int) -> Sample | Quarantined:
        source, row = self.mixture.locate(index)
        return self.parts[source][row]

    def record(self, index: int) -> Record:
        """What item `index` is made of. Raises RecordError."""
        source, row = self.mixture.locate(index)
        return self.parts[source].record(row)

    def fault(self, index: int) -> Quarantined:
        """Why item `index` is no sample, as far as that shows without its pictures."""
        source, row = self.mixture.locate(index)
        return self.parts[source].fault(row)


class Mixture:
    """The rows of one epoch: those of the first source, then those of the next; the same in every epoch.

    With shares s and R rows in the sources that have none, the mixture has R / (1 - Σs) rows. Where all sources have
    one, it is the largest mixture in which no row is seen twice. Draws depend on the recipe's seed and the source's
    name alone.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Opens the sources. Raises RecordError, RecipeError."""
        self.recipe = recipe
        self.sources = recipe.sources
        self.source_names = [source.name for source in recipe.sources]
        self.records = [source.records() for source in recipe.sources]
        """Per source all rows of its file, see `Source.records`."""
        self._chosen = []
        for source, records, weight in zip(self.sources, self.records, self._weights(), strict=True):
            seed = [recipe.seed, zlib.crc32(source.name.encode())]
            self._chosen.append(ChosenRows(len(records), source.sampling, weight, seed))
        self.counts = [len(chosen) for chosen in self._chosen]
        """Rows of an epoch per source."""
        self._ends = np.cumsum(self.counts)
        if not len(self):
            raise RecipeError(f"{recipe.file or recipe.name}: the mixture has no rows; raise a weight")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Row of the mixture → (number of its source, row of that source's records), all from 0."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a mixture of {len(self)}")
        sources, rows = self.locate_all(np.array([index]))
        return int(sources[0]), int(rows[0])

    def locate_all(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `locate`, for an array of rows: two int64 arrays."""
        indices = np.asarray(indices, np.int64)
        sources = np.searchsorted(self._ends, indices, side="right")
        rows = np.empty_like(indices)
        for number, chosen in enumerate(self._chosen):
            mine = sources == number
            if mine.any():
                rows[mine] = chosen.rows(indices[mine] - (self._ends[number] - self.counts[number]))
        return sources, rows

    def expected_missing(self) -> float:
        """Samples of an epoch without their media, as the sources declare them of all their rows."""
        declared = [
            min(1.0, source.expected.get("missing", 0) / len(records)) * count
            for source, records, count in zip(self.sources, self.records, self.counts, strict=True)
        ]
        return float(sum(declared))

    def _weights(self) -> list[float]:
        """The weight of each source, its share turned into one."""
        where = self.recipe.file or self.recipe.name
        parts = []
        for source, records in zip(self.sources, self.records, strict=True):
            try:
                parts.append(source.sampling.part_of(len(records)))
            except ValueError as error:
                raise RecipeError(f"{source.origin}: {source.path}: {error}") from error
        samplings = [source.sampling for source in self.sources]
        shares = [sampling.share for sampling in samplings if sampling.share is not None]
        if len(shares) < len(samplings):
            if sum(shares) >= 1:
                raise RecipeError(f"{where}: shares of {sum(shares):.0%} leave nothing for the others; lower them")
            fixed = sum(n * s.weight for n, s in zip(parts, samplings, strict=True) if s.share is None)
            total = fixed / (1 - sum(shares))
        elif abs(sum(shares) - 1) > 1e-6:
            raise RecipeError(f"{where}: all sources have a share, and together {sum(shares):.1%}; make them 100%")
        else:
            total = min(part / share for part, share in zip(parts, shares, strict=True))
        return [
            sampling.weight if sampling.share is None else sampling.share * total / part
            for sampling, part in zip(samplings, parts, strict=True)
        ]


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
