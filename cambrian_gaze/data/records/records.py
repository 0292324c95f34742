"""LLaVA-form records: one JSON array, or one JSON object per line (JSONL)."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cambrian_gaze.data.errors import RecordError, shown
from cambrian_gaze.data.media.clips import check_clip_keys
from cambrian_gaze.data.records.forms import (
    IMAGE_KEYS,
    ROLES,
    SYSTEM_KEYS,
    TURN_KEYS,
    VIDEO_KEYS,
    check_path,
    is_text,
    read_images,
    read_turns,
    read_video,
)
from cambrian_gaze.data.records.index import RowIndex, open_index
from cambrian_gaze.data.records.scan import DamagedArrayError, rows_within
from cambrian_gaze.data.records.unread import check_nothing_unread, check_row, check_turns

MAX_ROW_BYTES = 16 << 20
"""Longest row that is parsed."""

_KNOWN_KEYS = frozenset({"id", *TURN_KEYS, *IMAGE_KEYS, *VIDEO_KEYS, *SYSTEM_KEYS})


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
    """All other keys, such as fps and what cuts a clip out of a video (`clips`)."""
    foreign_key: str = ""
    """Key of its media where that is none of LLaVA's own, though its turns are: nothing says that the text means them
    unless it has placeholders."""

    @property
    def has_own_id(self) -> bool:
        """Whether the row has an id; `id` is made of its place otherwise."""
        return self.id != _default_id(self.file, self.row)


@dataclass(frozen=True)
class Layout:
    """What a source says about its rows: under which keys they are read, and what is added to their turns."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Key of a record → key or column under which the source has it."""
    ignore_keys: Sequence[str] = ()
    """Keys that are no media and cut no clip, whatever they look like."""
    fps: float | None = None
    """Frames per second of its folders and lists of frames, where a record does not say."""
    system_prompt: str | None = None
    """System turn of records that have none of their own."""
    prompt_suffix: str | None = None
    """Added on a line of its own to the last human turn."""

    def renamed(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The row under the keys of a record, without those to ignore. Raises RecordError where it has a key itself and
        not the one that `columns` reads in its place."""
        for key, column in self.columns.items():
            if column not in raw and raw.get(key):
                remedy = f"correct `columns: {{{key}: {column}}}` of the recipe, or drop it"
                raise RecordError(f'the row has "{key}" and no "{column}", which is to be read as it', remedy)
        ignored = {*self.columns.values(), *self.columns, *self.ignore_keys}
        row = {key: value for key, value in raw.items() if key not in ignored} if ignored else dict(raw)
        return row | {key: raw[column] for key, column in self.columns.items() if column in raw}

    def identity(self) -> dict[str, Any]:
        """What tells records under this layout from others, for JSON; empty without any."""
        facts = {"columns": dict(self.columns), "ignore_keys": list(self.ignore_keys), "fps": self.fps}
        if (self.system_prompt, self.prompt_suffix) != (None, None):
            facts["prompts"] = [self.system_prompt, self.prompt_suffix]
        return {key: value for key, value in facts.items() if value}

    def prompted(self, turns: list[dict[str, str]]) -> list[dict[str, str]]:
        """The turns with the system turn, where they have none, and with `prompt_suffix` under the last human one."""
        turns = list(turns)
        if self.prompt_suffix is not None:
            asked = [i for i, turn in enumerate(turns) if ROLES[turn["from"]] == "user"]
            for i in asked[-1:]:
                turns[i] = {**turns[i], "value": f"{turns[i]['value']}\n{self.prompt_suffix}"}
        if self.system_prompt is not None and ROLES[turns[0]["from"]] != "system":
            turns.insert(0, {"from": "system", "value": self.system_prompt})
        return turns


def parse_record(raw: Any, file: str, row: int, layout: Layout | None = None) -> Record:
    """One row as a record: its keys found (see `forms`), its types checked. Raises RecordError that names file, row and
    remedy."""
    try:
        return _parse_record(raw, file, row, layout or Layout())
    except RecordError as error:
        raise error.at(file, row) from error.__cause__


def _parse_record(raw: Any, file: str, row: int, layout: Layout) -> Record:
    if not isinstance(raw, dict):
        remedy = 'write {"id": …, "conversations": […]}'
        raise RecordError(f"the row is a JSON {type(raw).__name__}, not an object: {shown(raw)}", remedy)
    raw = layout.renamed(raw)
    found = read_turns(raw)
    images, image_key = read_images(raw, found.images)
    video, video_key = read_video(raw, found.videos)
    identity = str(_default_id(file, row) if raw.get("id") is None else raw["id"])
    if not is_text(identity):
        raise RecordError('"id" is no valid Unicode', "correct it, or drop it")
    extra = {key: value for key, value in raw.items() if key not in _KNOWN_KEYS}
    extra |= found.agreeing_with(extra)
    check_row(extra)
    check_turns(found.rest, has_media=bool(images) or video is not None)
    if not images and video is None:
        check_nothing_unread(extra)
    if video is not None:
        check_clip_keys(extra)
        if layout.fps is not None and extra.get("fps") is None:
            extra["fps"] = layout.fps
    foreign = {image_key if images else "", video_key if video is not None else ""} - {"", "image", "video", "content"}
    foreign_key = min(foreign, default="") if found.key == "conversations" else ""
    for path in (*images, *([video] if isinstance(video, str) else video or [])):
        if isinstance(path, str):
            check_path(path)
    return Record(identity, layout.prompted(found.turns), images, video, file, row, extra, foreign_key)


def _default_id(file: str, row: int) -> str:
    return f"{Path(file).name}:{row}"


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
            raise RecordError(f"{self.file} holds no records", "check the path, or remove it from the mixture")


class Records(RecordSequence):
    """The records of one JSON array or JSONL file, each read and parsed when it is asked for, so that a bad row fails
    alone. The file stays on disk and so does its index: memory does not grow with the rows, and workers share it.
    """

    def __init__(self, path: str | os.PathLike[str], index: RowIndex | None = None, layout: Layout | None = None):
        """`index`: where the rows are, by default `open_index(path)`. `layout`: what its source says about the keys."""
        self.file, self.layout = os.fspath(path), layout or Layout()
        self._fd: int | None = None
        try:
            self.index = open_index(path) if index is None else index
        except OSError as error:
            raise RecordError(f"{self.file}: {error.strerror or error}", "check the path") from error
        except DamagedArrayError as error:
            raise RecordError(f"{self.file} is not a valid JSON array: {error}", "repair or re-download it") from error
        self.check_not_empty()
        self._check_rows()

    def __len__(self) -> int:
        return len(self.index)

    def record(self, index: int) -> Record:
        row = self.index.row(index)
        return parse_record(self._parse(index, row), self.file, row, self.layout)

    def row_numbers(self) -> np.ndarray:
        return self.index.rows()

    def identity(self) -> dict[str, Any]:
        return {**vars(self.index.identity), **self.layout.identity()}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fd": None}

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            os.close(self._fd)

    def _check_rows(self) -> None:
        """Raises RecordError where the file is one JSON object around its rows, and not a row a line."""
        if self.index.kind == "array":
            return
        start, stop = self.index.span(0)
        with open(self.file, "rb") as stream:
            stream.seek(start)
            head = stream.read(min(stop - start, MAX_ROW_BYTES))
        if key := rows_within(head, whole=stop - start <= MAX_ROW_BYTES):
            name = f"{Path(self.file).stem}.rows.jsonl"
            what = f'one object that holds its rows under "{key}"' if key != "{" else "one object over several lines"
            jq = f".{key}[]" if key != "{" else "."
            raise RecordError(
                f"{self.file} is {what}, and not one JSON object per line",
                f"write the rows alone, as a JSON array or one a line: jq -c '{jq}' {self.file} > {name}",
            )

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


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict. json itself would keep the last of two values without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RecordError(f"the key {twice!r} stands twice in one object", "delete one of the two")
    return found
