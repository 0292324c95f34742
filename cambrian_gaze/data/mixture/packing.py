"""Which samples share a row of a batch: best fit by token counts, over windows of an epoch's order.

Within a window the longest samples are placed first, each into the fullest pack that still has room for it. A window is
packed by itself, so that the packs of an epoch follow from its order, the lengths and the limit alone.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

WINDOW = 8192
"""Samples that are packed together. A window wastes about one pack; shuffling reaches no further than it."""


@dataclass(frozen=True)
class Packs:
    """Numbers of samples, pack after pack."""

    rows: np.ndarray
    """int64 [samples], in the order in which they are read."""
    starts: np.ndarray
    """int64 [packs + 1]: pack k is `rows[starts[k] : starts[k + 1]]`."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, pack: int) -> np.ndarray:
        return self.rows[self.starts[pack] : self.starts[pack + 1]]


def one_by_one(rows: np.ndarray) -> Packs:
    """Each sample in a pack of its own."""
    return Packs(rows, np.arange(len(rows) + 1))


def pack(
    rows: np.ndarray, lengths: np.ndarray, capacity: int, *, window: int = WINDOW, seed: int | None = None
) -> Packs:
    """Pack the samples `rows` (int64 [n]) with `lengths` tokens (int [n], same order) to at most `capacity`.

    With `seed` the packs of a window come in an order drawn from it, else in the order of their first samples.
    Raises: ValueError for a sample longer than `capacity`.
    """
    if len(lengths) and int(lengths.max()) > capacity:
        longest = int(lengths.argmax())
        raise ValueError(f"sample {rows[longest]} has {lengths[longest]} tokens and a pack holds {capacity}")
    random = None if seed is None else np.random.default_rng(seed)
    ordered, counts = [], []
    for start in range(0, len(rows), window):
        owner = best_fit(lengths[start : start + window], capacity)
        if random is not None:
            owner = random.permutation(int(owner.max()) + 1)[owner]
        ordered.append(rows[start : start + window][np.argsort(owner, kind="stable")])
        counts.append(np.bincount(owner))
    sizes = np.concatenate(counts) if counts else np.zeros(0, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Packs(np.concatenate(ordered) if ordered else rows, starts)


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The pack of each sample, int64 [n], packs numbered by their first sample. Longest first, equal ones in order."""
    descending = np.argsort(-lengths.astype(np.int64), kind="stable")
    shortest = int(lengths.min()) if len(lengths) else 0
    owner = np.zeros(len(lengths), dtype=np.int64)
    # Packs that have room for at least the shortest sample, by rising room.
    rooms: list[int] = []
    packs: list[int] = []
    opened = 0
    for sample, length in zip(descending.tolist(), lengths[descending].tolist(), strict=True):
        at = bisect_left(rooms, length)
        if at < len(rooms):
            room, number = rooms.pop(at) - length, packs.pop(at)
        else:
            room, number, opened = capacity - length, opened, opened + 1
        owner[sample] = number
        if room >= shortest:
            at = bisect_left(rooms, room)
            rooms.insert(at, room)
            packs.insert(at, number)
    if not len(owner):
        return owner
    first = np.full(opened, len(owner))
    np.minimum.at(first, owner, np.arange(len(owner)))
    rank = np.empty(opened, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(opened)
    return rank[owner]
