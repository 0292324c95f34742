"""Records of Parquet and Arrow files and of hub datasets, through `datasets`: random access, or a stream.

A table's rows are read as those of JSON (`forms`), under the names that `columns` gives the table's columns. A column
of pictures, {"bytes", "path"}, is taken as it is: bytes where there are some, a path below the image folder otherwise.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.records.forms import TURN_KEYS
from cambrian_gaze.data.records.records import Layout, Record, RecordSequence, parse_record
from cambrian_gaze.extras import require

HUB = "hub:"
"""Begins a path that names a dataset of the Hugging Face Hub: `hub:owner/name`."""


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
        split: str = "train",
        *,
        layout: Layout | None = None,
    ) -> None:
        """`config`, `split`: of a hub dataset. `layout`: what its source says, of which `columns` is a part. Raises
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
        split: str = "train",
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
        if os.path.exists(os.path.join(path, "dataset_info.json")):
            table = datasets.load_from_disk(path)
            return table.to_iterable_dataset() if streaming else table
        if path.endswith(".arrow"):
            table = datasets.Dataset.from_file(path)
            return table.to_iterable_dataset() if streaming else table
        files = sorted(map(str, Path(path).rglob("*.parquet"))) if os.path.isdir(path) else [path]
        if not files or not os.path.exists(files[0]):
            raise FileNotFoundError(f"no Parquet file at {path}")
        return datasets.load_dataset("parquet", data_files=files, split="train", streaming=streaming)
    except ImportError:
        raise
    except Exception as error:  # datasets raises types of its own, which cannot be imported without it
        remedy = "check the path, config and split, or download it again"
        raise RecordError(f"{path} cannot be opened as a table ({error})", remedy) from error
