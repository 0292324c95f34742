"""Records of Parquet and Arrow files and of hub datasets, through `datasets`: random access, or a stream.

A table's rows are read as those of JSON (`forms`), under the names that `columns` gives the table's columns. A column
of pictures, {"bytes", "path"}, is taken as it is: bytes where there are some, a path below the image folder otherwise.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.records.forms import TURN_KEYS
from cambrian_gaze.data.records.records import Layout, Record, RecordSequence, parse_record
from cambrian_gaze.extras import require

logger = logging.getLogger(__name__)

HUB = "hub:"
"""Begins a path that names a dataset of the Hugging Face Hub: `hub:owner/name`."""

DEFAULT_SPLIT = "train"
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Split → words in names of files that say it, those of `datasets`."""


def is_table(path: str) -> bool:
    """Whether `path` is read by this module: .parquet, .arrow, a folder, or `hub:…`."""
    return path.startswith(HUB) or Path(path).suffix in (".parquet", ".arrow") or os.path.isdir(path)


class TableRecords(RecordSequence):
    """The records of one table, each read when it is asked for.

    `datasets` maps Arrow files into memory, which all processes share; a Parquet file is converted to Arrow once, in
    its cache folder (`HF_DATASETS_CACHE`).
    """

    def __init__(
        self,
        path: str,
        columns: Mapping[str, str] | None = None,
        config: str | None = None,
        split: str = DEFAULT_SPLIT,
        *,
        layout: Layout | None = None,
    ) -> None:
        """`config`: of a hub dataset. `split`: of one, of a `DatasetDict`, or of a folder of files named by splits,
        which is read whole where they name none. `layout`: what its source says, of which `columns` is a part. Raises
        RecordError."""
        self.file, self.layout = path, layout or Layout(columns or {})
        self._table = _load(path, config, split, streaming=False).with_format("arrow")
        _check_columns(self._table.column_names, self.layout, path)
        self.check_not_empty()

    def __len__(self) -> int:
        return len(self._table)

    def record(self, index: int) -> Record:
        (row,) = self._table[index : index + 1].to_pylist()
        return record_of_row(row, self.layout, self.file, index + 1)

    def row_numbers(self) -> np.ndarray:
        return np.arange(1, len(self) + 1)

    def identity(self) -> dict[str, Any]:
        return {"table": self._table._fingerprint, **self.layout.identity()}


class TableStream:
    """The records of one table in its order, read as they come: this rank's share, a part of a stream of its own.

    `state()` after a record, given to `resume` of another stream, goes on with the record after it. It counts rows of
    the table's shards, so that resuming does not read what came before.
    """

    def __init__(
        self,
        path: str,
        columns: Mapping[str, str] | None = None,
        config: str | None = None,
        split: str = DEFAULT_SPLIT,
        *,
        layout: Layout | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`layout`: see `TableRecords`. Raises RecordError."""
        self.file = path if world_size == 1 else f"{path} (share {rank + 1} of {world_size})"
        self.layout = layout or Layout(columns or {})
        table = _load(path, config, split, streaming=True)
        if table.column_names is not None:
            _check_columns(table.column_names, self.layout, path)
        distribute = require("datasets.distributed", extra="data")
        self._fresh = self._table = distribute.split_dataset_by_node(table.with_format("arrow"), rank, world_size)
        self._row, self._world_size = 0, world_size

    def state(self) -> dict[str, Any]:
        """Where the stream is; plain values that JSON can hold."""
        return {"row": self._row, "world_size": self._world_size, "table": self._table.state_dict()}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where another stream over the same table and rank was. Raises ValueError for other numbers of ranks."""
        if state["world_size"] != self._world_size:
            raise ValueError(
                f"{self.file}: {state['world_size']} ranks read the stream when it was saved, now there are "
                f"{self._world_size}; start as many, or index the data instead of streaming it"
            )
        self._row, self._table = state["row"], copy.deepcopy(self._fresh)
        self._table.load_state_dict(state["table"])

    def __iter__(self) -> Iterator[Record | RecordError]:
        """Records; an error stands for one that is none. Its row is its place in this rank's share, from 1."""
        for batch in self._table:
            for row in batch.to_pylist():
                self._row += 1
                try:
                    yield record_of_row(row, self.layout, self.file, self._row)
                except RecordError as error:
                    yield error
        # A table that was resumed begins there each time.
        self._row, self._table = 0, self._fresh


def record_of_row(row: Mapping[str, Any], layout: Layout, file: str, number: int) -> Record:
    """A table's row as a record. Raises RecordError that names file and row."""
    return parse_record({key: value for key, value in row.items() if value is not None}, file, number, layout)


def _check_columns(names: Sequence[str], layout: Layout, path: str) -> None:
    has = f"the table has {', '.join(names)}"
    for key, column in layout.columns.items():
        if column not in names:
            remedy = f"map it in the recipe: `columns: {{{key}: COLUMN}}`; {has}"
            raise RecordError(f"{path} has no column {column!r} for {key!r}", remedy)
    if not {*TURN_KEYS} & {*names, *layout.columns}:
        remedy = f"map it in the recipe: `columns: {{conversations: COLUMN}}`; {has}"
        raise RecordError(f"{path} has no column 'conversations' (or {', '.join(TURN_KEYS[1:])})", remedy)


def _load(path: str, config: str | None, split: str, streaming: bool) -> Any:
    """A `datasets.Dataset` or `IterableDataset`; pictures stay bytes."""
    datasets = require("datasets", extra="data")
    try:
        if path.startswith(HUB):
            return datasets.load_dataset(path.removeprefix(HUB), config, split=split, streaming=streaming)
        if config is not None:
            remedy = "name the folder of the configuration as path, and drop config"
            raise RecordError(f"config is {config!r}, and {path} is no hub dataset", remedy)
        if is_dict := os.path.exists(os.path.join(path, "dataset_dict.json")):
            with open(os.path.join(path, "dataset_dict.json"), encoding="utf-8") as stream:
                path = os.path.join(path, _one_split(json.load(stream)["splits"], split, path))
        by_split = _files_by_split(path)
        if split != DEFAULT_SPLIT and not by_split and not is_dict:
            raise RecordError(f"split is {split!r}, and {path} is a single table", "drop split, or name its own file")
        if os.path.exists(os.path.join(path, "dataset_info.json")):
            table = datasets.load_from_disk(path)
            return table.to_iterable_dataset() if streaming else table
        if path.endswith(".arrow"):
            table = datasets.Dataset.from_file(path)
            return table.to_iterable_dataset() if streaming else table
        files = _files_of_split(path, by_split, split) if os.path.isdir(path) else [path]
        if not files or not os.path.exists(files[0]):
            raise FileNotFoundError(f"no Parquet file at {path}")
        return datasets.load_dataset("parquet", data_files=files, split="train", streaming=streaming)
    except (ImportError, RecordError):
        raise
    except Exception as error:  # datasets raises types of its own, which cannot be imported without it
        remedy = "check the path, config and split, or download it again"
        raise RecordError(f"{path} cannot be opened as a table ({error})", remedy) from error


def _files_of_split(folder: str, files: Mapping[str, Sequence[str]], split: str) -> list[str]:
    """Those of a folder's `_files_by_split` that belong to `split`; says how many are of others."""
    if not files:
        return []
    chosen = _one_split(files, split, folder)
    if left := ", ".join(f"{len(of)} of {name}" for name, of in files.items() if name != chosen):
        logger.warning("%s: %d files of the split %s are read, not %s", folder, len(files[chosen]), chosen, left)
    return [os.path.join(folder, file) for file in files[chosen]]


def _files_by_split(folder: str) -> dict[str, list[str]]:
    """Split → Parquet files below a folder, hidden ones left out. What names none belongs to the default. Empty for a
    single file."""
    files: dict[str, list[str]] = {}
    for path in sorted(Path(folder).rglob("*.parquet")):
        file = path.relative_to(folder)
        if not any(part.startswith(".") for part in file.parts):
            files.setdefault(_split_named(file) or DEFAULT_SPLIT, []).append(str(file))
    return files


def _split_named(file: Path) -> str | None:
    """The split that a file's name, or else that of a folder, says in the way of `datasets`."""
    if named := re.fullmatch(r"data/([\w.]+)-\d{5}-of-\d{5}.*", file.as_posix()):
        return named[1]
    for part in reversed(file.parts):
        for word in re.split(r"[-._ 0-9]+", part.lower()):
            for split, words in _SPLIT_WORDS.items():
                if word in words:
                    return split
    return None


def _one_split(splits: Iterable[str], split: str, path: str) -> str:
    """The split that is asked for; the only one where nobody asks. Raises RecordError."""
    found = sorted(splits)
    if split in found:
        return split
    if len(found) == 1 and split == DEFAULT_SPLIT:
        return found[0]
    raise RecordError(f"{path} has no split {split!r} but {', '.join(found)}", "choose one: `split: NAME` in a recipe")
