"""Streamed sources: a dataset whose items are the samples of tables in their order, with a state to go on from.

A stream has no rows to choose: whatever item is asked for, the next sample comes. Steps stay those of an order
(`data/mixture/plan.py`) of as many places as the run reads; in the place of a row that cannot be read, the next one
is taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from cambrian_gaze.data.dataset import ConversationDataset, Sample, SampleOptions
from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.mixture.mixture import PlannedDataset
from cambrian_gaze.data.mixture.plan import Draw, EpochOrder, Pack
from cambrian_gaze.data.mixture.recipe import Source
from cambrian_gaze.data.quarantine import Quarantined, QuarantineLog
from cambrian_gaze.data.records.records import Record
from cambrian_gaze.data.records.tables import TableStream


class StreamDataset(Dataset):
    """The sources one after the other, then from the first again. Read by one process at a time."""

    def __init__(
        self,
        sources: Sequence[Source],
        processor: Any,
        options: SampleOptions | None = None,
        quarantine: QuarantineLog | None = None,
    ) -> None:
        self.sources = list(sources)
        self.parts = [
            ConversationDataset(
                [],
                processor,
                source.image_folder,
                source.video_folder,
                source=source.name,
                expects_missing=bool(source.expected.get("missing")),
                options=options,
                quarantine=quarantine,
            )
            for source in self.sources
        ]
        self._rank, self._world_size, self._length = 0, 1, 0
        self._source, self._start = 0, None
        self._stream: TableStream | None = None
        self._reader: Iterator[Record | RecordError] = iter(())
        self._latest: Record | RecordError | None = None

    def share(self, rank: int, world_size: int, length: int) -> None:
        """Read the share of one of `world_size` ranks; `length` places are read by all of them."""
        self._rank, self._world_size, self._length = rank, world_size, length

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where `state()` was taken, on the same rank of as many. The first item that is read checks it."""
        self._source, self._start, self._stream = state["source"], state["stream"], None

    def state(self) -> dict[str, Any]:
        """What `resume` takes, after the items read so far; plain values."""
        stream = self._start if self._stream is None else self._stream.state()
        return {"source": self._source, "stream": stream}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample | Quarantined:
        self._latest = self._next()
        part = self.parts[self._source]
        part.records = _One(self._latest)
        return part[0]

    def record(self, index: int) -> Record:
        """What the item that was read last is made of. Raises RecordError."""
        return _One(self._latest)[0]

    def _next(self) -> Record | RecordError:
        """Raises ValueError where no source holds anything for this rank."""
        for _ in range(len(self.sources) + 2):
            if self._stream is None:
                self._stream = self.sources[self._source].stream(self._rank, self._world_size)
                if self._start is not None:
                    self._stream.resume(self._start)
                self._reader, self._start = iter(self._stream), None
            for item in self._reader:
                return item
            self._source, self._stream = (self._source + 1) % len(self.sources), None
        names = ", ".join(source.path for source in self.sources)
        raise ValueError(f"rank {self._rank} of {self._world_size} finds no row in {names}; use fewer ranks")


class StreamOrder(EpochOrder):
    """One epoch of as many places as the run reads, in order."""

    def __init__(self, dataset: StreamDataset, places: int) -> None:
        super().__init__(np.arange(places), shuffle=False)
        self._facts = {"streamed": [source.path for source in dataset.sources]}

    def fingerprint(self) -> dict[str, Any]:
        """What was read depends on the streams alone: a longer run may go on."""
        return self._facts


class StreamedPlan(PlannedDataset):
    """Packs that carry the state of the stream after them, as JSON."""

    def __getitem__(self, draw: Draw) -> Pack:
        return replace(super().__getitem__(draw), stream_state=json.dumps(self.dataset.state()))


class _One(Sequence[Record]):
    """A record, or the error that stands for it."""

    def __init__(self, item: Record | RecordError | None) -> None:
        self._item = item

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self._item, RecordError):
            raise self._item
        return self._item
