"""LLaVA-form records: one JSON array, or one JSON object per line (JSONL)."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    images: list[str] = field(default_factory=list)
    """Paths below the image folder, in the order of their placeholders."""
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
    if not _are_paths(images):
        raise fail('"image" is neither a path nor a list of paths', "give non-empty relative paths, or drop the key")
    if video is not None and (video == [] or not _are_paths([video] if isinstance(video, str) else video)):
        raise fail('"video" is neither a path nor a list of frame paths', "give non-empty relative paths, or drop it")
    identity = raw.get("id")
    identity = f"{Path(file).name}:{row}" if identity is None else str(identity)
    extra = {key: value for key, value in raw.items() if key not in _KNOWN_KEYS}
    return Record(identity, turns, images, video, file, row, extra)


class Records(Sequence[Record]):
    """The records of one file, each parsed when it is asked for, so that a bad row fails alone.

    A JSONL file stays on disk: memory holds 16 bytes a row, and forked or spawned workers share nothing but the path.
    A JSON array is read whole; a large one is better stored as JSONL.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.file = os.fspath(path)
        self._fd: int | None = None
        self._rows: list[Any] | None = None
        self._starts, self._lines = array("q"), array("q")
        try:
            with open(self.file, "rb") as stream:
                self._read_array() if _first_byte(stream) == b"[" else self._index_lines(stream)
        except OSError as error:
            raise RecordError(f"{self.file}: {error.strerror}", "check --data_path") from error
        if not len(self):
            raise RecordError(f"{self.file} holds no records", "check --data_path, or remove the file from the mixture")

    def __len__(self) -> int:
        return len(self._starts) if self._rows is None else len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self.file}")
        index %= len(self)
        if self._rows is not None:
            return parse_record(self._rows[index], self.file, index + 1)
        row = self._lines[index]
        try:
            raw = json.loads(self._line(index))
        except (ValueError, RecursionError) as error:
            remedy = "write one JSON object per line, in UTF-8 (or one JSON array for the whole file)"
            raise RecordError(f"the line is not valid JSON ({error})", remedy, self.file, row) from error
        return parse_record(raw, self.file, row)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fd": None}

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            os.close(self._fd)

    def _read_array(self) -> None:
        try:
            with open(self.file, encoding="utf-8-sig") as stream:
                self._rows = json.load(stream)
        except ValueError as error:
            raise RecordError(f"{self.file} is not a valid JSON array ({error})", "repair or re-download it") from error

    def _index_lines(self, stream: Any) -> None:
        position = 0
        for number, line in enumerate(stream, 1):
            if line.strip(b" \t\r\n\xef\xbb\xbf"):
                self._starts.append(position)
                self._lines.append(number)
            position += len(line)
        self._size = position

    def _line(self, index: int) -> str:
        # pread keeps no position: one descriptor serves threads and forked workers alike.
        if self._fd is None:
            self._fd = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        start = self._starts[index]
        end = self._starts[index + 1] if index + 1 < len(self._starts) else self._size
        return os.pread(self._fd, end - start, start).decode("utf-8-sig")


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


def _first_byte(stream: Any) -> bytes:
    head = stream.read(4096).lstrip(b" \t\r\n\xef\xbb\xbf")[:1]
    stream.seek(0)
    return head
