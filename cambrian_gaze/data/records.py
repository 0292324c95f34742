"""LLaVA-form records: one JSON array, or one JSON object per line (JSONL)."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cambrian_gaze.data.index import RowIndex, open_index
from cambrian_gaze.data.scan import DamagedArrayError

MAX_ROW_BYTES = 16 << 20
"""Longest row that is parsed."""

ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
"""Speaker in a record ("from") → role in a chat message."""

_KNOWN_KEYS = frozenset({"id", "conversations", "image", "video"})


class RecordError(ValueError):
    """A record that cannot become a sample: what is wrong, how to mend it and, once known, where it stands."""

    def __init__(self, reason: str, remedy: str = "", file: str | None = None, row: int | None = None):
        super().__init__(reason, remedy, file, row)
        self.reason, self.remedy, self.file, self.row = reason, remedy, file, row

    def __str__(self) -> str:
        where = "" if self.file is None else f"{self.file}, row {self.row}: "
        return f"{where}{self.reason}" + (f". Remedy: {self.remedy}" if self.remedy else "")

    def at(self, file: str, row: int) -> RecordError:
        """The same error, placed at `file` and `row` where it has no place yet."""
        return self if self.file is not None else type(self)(self.reason, self.remedy, file, row)


@dataclass(frozen=True)
class Record:
    """One row of a data file, its shape checked; its meaning (placeholders, media) is checked where it is used."""

    id: str
    conversations: list[dict[str, str]]
    """Turns as written: {"from": a key of ROLES, "value": text with `<image>` and `<video>` placeholders}."""
    images: list[str | bytes] = field(default_factory=list)
    """In the order of their placeholders: paths below the image folder, or an image file's bytes out of a table."""
    video: str | list[str] | None = None
    """A video file or a folder of frames below the video folder, or a list of frames."""
    file: str = ""
    row: int = 0
    """Counted from 1: the line of a JSONL file, the place in a JSON array."""
    extra: dict[str, Any] = field(default_factory=dict)
    """All other keys, such as fps, start_time, end_time, start_frame, end_frame of a video."""


def parse_record(raw: Any, file: str, row: int) -> Record:
    """Checks the types of one row. Raises RecordError that names file, row and remedy."""

    def fail(reason: str, remedy: str) -> RecordError:
        return RecordError(reason, remedy, file, row)

    if not isinstance(raw, dict):
        raise fail(f"the row is a JSON {type(raw).__name__}, not an object", 'write {"id": …, "conversations": […]}')
    turns = raw.get("conversations")
    if not isinstance(turns, list):
        raise fail('"conversations" is missing or no list', 'add "conversations": [{"from": "human", "value": …}, …]')
    if not turns:
        raise fail("the conversation is empty (0 turns)", "add a human and a gpt turn, or delete the row")
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or not _is_text(turn.get("from")) or not _is_text(turn.get("value")):
            remedy = 'write it as {"from": "human", "value": "text"}, in valid Unicode'
            raise fail(f"turn {number} of {len(turns)} lacks a speaker or a text", remedy)
        if turn["from"] not in ROLES:
            known = ", ".join(ROLES)
            raise fail(f'turn {number} of {len(turns)} is from "{turn["from"]}"', f'set "from" to one of: {known}')
    images, video = raw.get("image"), raw.get("video")
    images = [] if images is None else [images] if isinstance(images, str) else images
    if not (isinstance(images, list) and all(isinstance(image, bytes) or _are_paths([image]) for image in images)):
        raise fail('"image" is neither a path nor a list of paths', "give non-empty relative paths, or drop the key")
    if video is not None and (video == [] or not _are_paths([video] if isinstance(video, str) else video)):
        raise fail('"video" is neither a path nor a list of frame paths', "give non-empty relative paths, or drop it")
    identity = raw.get("id")
    identity = f"{Path(file).name}:{row}" if identity is None else str(identity)
    if not _is_text(identity):
        raise fail('"id" is no valid Unicode', "correct it, or drop it")
    extra = {key: value for key, value in raw.items() if key not in _KNOWN_KEYS}
    return Record(identity, turns, images, video, file, row, extra)


class RecordSequence(Sequence[Record]):
    """The records of one file or table, each made when it is asked for."""

    file: str
    """Path or name of what holds them."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self.file}")
        return self.record(int(index) % len(self))

    @abstractmethod
    def record(self, index: int) -> Record:
        """Record `index`, from 0. Raises RecordError."""

    @abstractmethod
    def row_numbers(self) -> np.ndarray:
        """`Record.row` of every record, int64 [records]."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells these records from others and from an older state of the file, for JSON."""

    def check_not_empty(self) -> None:
        """Raises RecordError where there are none."""
        if not len(self):
            raise RecordError(f"{self.file} holds no records", "check --data_path, or remove it from the mixture")


class Records(RecordSequence):
    """The records of one JSON array or JSONL file, each read and parsed when it is asked for, so that a bad row fails
    alone. The file stays on disk and so does its index: memory does not grow with the rows, and workers share it.
    """

    def __init__(self, path: str | os.PathLike[str], index: RowIndex | None = None):
        """`index`: where the rows are, by default `open_index(path)`."""
        self.file = os.fspath(path)
        self._fd: int | None = None
        try:
            self.index = open_index(path) if index is None else index
        except OSError as error:
            raise RecordError(f"{self.file}: {error.strerror or error}", "check --data_path") from error
        except DamagedArrayError as error:
            raise RecordError(f"{self.file} is not a valid JSON array: {error}", "repair or re-download it") from error
        self.check_not_empty()

    def __len__(self) -> int:
        return len(self.index)

    def record(self, index: int) -> Record:
        row = self.index.row(index)
        return parse_record(self._parse(index, row), self.file, row)

    def row_numbers(self) -> np.ndarray:
        return self.index.rows()

    def identity(self) -> dict[str, Any]:
        return vars(self.index.identity)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fd": None}

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            os.close(self._fd)

    def _parse(self, index: int, row: int) -> Any:
        """The row's JSON. Raises RecordError."""
        raw = self._read(index, row)
        try:
            return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
        except RecordError as error:
            raise error.at(self.file, row) from None
        except RecursionError as error:
            remedy = "flatten it, or delete the row"
            raise RecordError("its values are nested too deeply", remedy, self.file, row) from error
        except ValueError as error:
            reason, remedy = self._why_not_json(raw, index, error)
            raise RecordError(reason, remedy, self.file, row) from error

    def _why_not_json(self, raw: bytes, index: int, error: ValueError) -> tuple[str, str]:
        what = "element" if self.index.kind == "array" else "line"
        if isinstance(error, UnicodeDecodeError):
            return f"the {what} is not UTF-8 ({error.reason} at byte {error.start})", "convert the file to UTF-8"
        if zeros := raw.count(0):
            return f"the {what} holds {zeros} NUL bytes", "download it again: a full disk or a crash leaves such holes"
        reason = f"the {what} is not valid JSON ({error})"
        if what == "line" and index == len(self) - 1 and not raw.endswith(b"\n"):
            return f"{reason} and the file ends within it", "finish or delete it: its writing was interrupted"
        return reason, "write one JSON object per line, in UTF-8 (or one JSON array for the whole file)"

    def _read(self, index: int, row: int) -> bytes:
        """The row's bytes, of a line with its newline. Raises RecordError beyond MAX_ROW_BYTES."""
        # pread keeps no position: one descriptor serves threads and forked workers alike.
        if self._fd is None:
            self._fd = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        start, stop = self.index.span(index)
        size = min(stop - start, MAX_ROW_BYTES + 1)
        raw = os.pread(self._fd, size, start)
        if len(raw) < size:
            raise RecordError("the file is shorter than when it was opened", "start again", self.file, row)
        if self.index.kind == "lines":  # blank lines may follow
            raw = raw[: raw.find(b"\n") + 1 or None]
        if len(raw) > MAX_ROW_BYTES:
            reason = f"the row has {stop - start:,} bytes, more than {MAX_ROW_BYTES:,}"
            raise RecordError(reason, "keep media in files of their own, or split the conversation", self.file, row)
        return raw


def read_records(path: str | os.PathLike[str]) -> Records:
    """The records of a JSON array or a JSONL file (told apart by the first character, not by the file's name)."""
    return Records(path)


def _are_paths(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(path) and path for path in value)


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()  # JSON can spell lone surrogates, which no tokenizer takes
    except UnicodeEncodeError:
        return False
    return True


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict. json itself would keep the last of two values without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RecordError(f"the key {twice!r} stands twice in one object", "delete one of the two")
    return found
