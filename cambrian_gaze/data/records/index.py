"""The row index of a JSONL file or a JSON array: byte offsets, built once, and read where they lie on disk.

To read a row a process reads two offsets, and holds none: its memory does not depend on the number of rows. Forked and
spawned workers, and all ranks of a machine, share the page cache. The index lies beside the data as `.NAME.index` (see
`places`).
"""

from __future__ import annotations

import errno
import io
import json
import os
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import numpy as np

from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.records.places import FileIdentity, locked, places_beside, writable_place
from cambrian_gaze.data.records.scan import ArrayScanner, LineScanner, first_byte, other_form
from cambrian_gaze.files import replacing

FORMAT = "cambrian-gaze rows 1"
HEADER_BYTES = 4096
BLOCK_BYTES = 1 << 20
_TWO_OFFSETS = struct.Struct("<qq")
STORE_FROM_BYTES = 16 << 20
"""A smaller file is scanned in milliseconds wherever it is opened, and leaves no index file."""


class RowIndex:
    """Where each row of one file lies. `stored` is the file on disk that says so; None: it is held in memory."""

    def __init__(
        self,
        kind: Literal["lines", "array"],
        offsets: np.ndarray,
        blanks: np.ndarray,
        identity: FileIdentity,
        stored: str | None = None,
    ) -> None:
        """`offsets`: int64 [rows + 1], `blanks`: int64, see `data/records/scan.py`."""
        self.kind, self.identity, self.stored = kind, identity, stored
        self._offsets, self._blanks = offsets, blanks
        self._fd: int | None = None
        self.built = stored is None
        """Whether opening it meant scanning the file."""

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def span(self, index: int) -> tuple[int, int]:
        """First byte of row `index` and the byte after it; white space and blank lines may surround the row."""
        if self.stored is None:
            start, stop = self._offsets[index : index + 2].tolist()
        else:
            # Not through the map: its pages would count as this process's memory, as many as there are rows.
            if self._fd is None:
                self._fd = os.open(self.stored, os.O_RDONLY | os.O_CLOEXEC)
            start, stop = _TWO_OFFSETS.unpack(os.pread(self._fd, _TWO_OFFSETS.size, HEADER_BYTES + 8 * index))
        return (start, stop - 1) if self.kind == "array" else (start, stop)

    def row(self, index: int) -> int:
        """The row's name in messages, from 1: its line in a JSONL file, its place in an array."""
        return index + 1 + int(np.searchsorted(self._blanks, index, side="right"))

    def rows(self) -> np.ndarray:
        """`row` of every row, int64 [rows]."""
        numbers = np.arange(len(self))
        return numbers + 1 + np.searchsorted(self._blanks, numbers, side="right")

    def __getstate__(self) -> dict[str, Any]:
        if self.stored is None:
            return self.__dict__
        return {**self.__dict__, "_offsets": None, "_blanks": None, "_fd": None}

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            os.close(self._fd)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.stored is not None:
            found = load_index(self.stored, self.identity)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "the row index was removed or replaced", self.stored)
            self._offsets, self._blanks = found._offsets, found._blanks


def open_index(path: str | os.PathLike[str], *, rebuild: bool = False, store: bool | None = None) -> RowIndex:
    """The index of the file as it is now, built where there is none that fits.

    store: keep it on disk; by default where the file has at least `STORE_FROM_BYTES`. Processes that open one file at
    once wait for the first of them where the file system has locks, and otherwise each build it.
    Raises OSError, DamagedArrayError, RecordError for a file of another form (compressed, UTF-16, …), and ValueError
    where no folder takes the index.
    """
    identity = FileIdentity.of(path)
    with open(path, "rb") as stream:
        form = other_form(stream.read(64))
    if form is not None:
        name = os.fspath(path)
        raise RecordError(f"{name} is {form[0]}, where JSON is read", form[1].format(file=name))
    store = identity.size >= STORE_FROM_BYTES if store is None else store
    if not store:
        return build_index(path, identity)
    places = places_beside(path, "index")
    if not rebuild and (found := _first_fitting(places, identity)):
        return found
    place = writable_place(places, path)
    with locked(place):
        # Another process may have built it meanwhile.
        if not rebuild and (found := _first_fitting(places, identity)):
            return found
        store_index(path, identity, place)
    found = load_index(place, identity)
    if found is None:
        raise OSError(f"{place} was written, and does not read back; is the disk damaged or full?")
    found.built = True
    return found


def build_index(path: str | os.PathLike[str], identity: FileIdentity, block_bytes: int = BLOCK_BYTES) -> RowIndex:
    """An index in memory. Raises OSError, DamagedArrayError."""
    stream = io.BytesIO()
    _write_index(path, identity, stream, block_bytes)
    whole = stream.getvalue()
    return _as_index(json.loads(whole[:HEADER_BYTES]), np.frombuffer(whole, "<i8", offset=HEADER_BYTES), identity)


def store_index(path: str | os.PathLike[str], identity: FileIdentity, place: str) -> None:
    """An index on disk. Raises OSError, DamagedArrayError."""
    with replacing(place) as temporary, temporary.open("wb") as stream:
        _write_index(path, identity, stream)


def _write_index(
    path: str | os.PathLike[str], identity: FileIdentity, stream: BinaryIO, block_bytes: int = BLOCK_BYTES
) -> None:
    """Scan the file, with a progress bar where that takes more than a second; nothing is held beyond a block."""
    kind = "array" if first_byte(_blocks(path, 4096)) == b"[" else "lines"
    scanner = ArrayScanner() if kind == "array" else LineScanner()
    stream.seek(HEADER_BYTES)
    rows = first = 0
    with _bar(path, identity.size) as bar:
        for starts in scanner.scan(_blocks(path, block_bytes, bar)):
            first = int(starts[0]) if rows == 0 and len(starts) else first
            rows += len(starts)
            stream.write(starts.astype("<i8", copy=False).data)
    if kind == "array" and rows == 1 and first_byte(_blocks(path, 4096, start=first)) == b"]":
        rows = 0
        stream.seek(HEADER_BYTES)
    stream.write(np.append(scanner.end, scanner.blanks).astype("<i8").data)
    if FileIdentity.of(path) != identity:
        raise OSError(f"{os.fspath(path)} changed while it was indexed; open it when its writing has ended")
    header = {"format": FORMAT, "kind": kind, "rows": rows, "blanks": len(scanner.blanks), **vars(identity)}
    stream.seek(0)
    stream.write(json.dumps(header).encode().ljust(HEADER_BYTES - 1) + b"\n")


def load_index(place: str, identity: FileIdentity) -> RowIndex | None:
    """The stored index, mapped; None where there is none, it belongs to another content, or it is damaged."""
    try:
        with open(place, "rb") as stream:
            header = json.loads(stream.read(HEADER_BYTES))
        mapped = np.memmap(place, dtype="<i8", mode="r", offset=HEADER_BYTES)
    except (OSError, ValueError):
        return None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        return None
    if {key: header.get(key) for key in vars(identity)} != vars(identity):
        return None
    if len(mapped) != header["rows"] + 1 + header["blanks"]:
        return None
    return _as_index(header, np.asarray(mapped), identity, place)


def _as_index(header: dict[str, Any], table: np.ndarray, identity: FileIdentity, place: str | None = None) -> RowIndex:
    rows = header["rows"]
    return RowIndex(header["kind"], table[: rows + 1], table[rows + 1 :], identity, place)


def _first_fitting(places: tuple[str, str], identity: FileIdentity) -> RowIndex | None:
    return next((found for place in places if (found := load_index(place, identity)) is not None), None)


def _blocks(path: str | os.PathLike[str], size: int, bar: Any = None, start: int = 0) -> Iterator[np.ndarray]:
    """The file from byte `start` on as uint8 arrays, each valid until the next one is asked for."""
    buffer = bytearray(size)
    with open(path, "rb", buffering=0) as stream:
        stream.seek(start)
        while count := stream.readinto(buffer):
            yield np.frombuffer(buffer, np.uint8, count)
            if bar is not None:
                bar.update(count)


def _bar(path: str | os.PathLike[str], size: int) -> Any:
    from tqdm import tqdm

    name = f"indexing {os.path.basename(path)}"
    return tqdm(total=size, unit="B", unit_scale=True, desc=name, delay=1.0, leave=False)
