"""Tokens of every row that a mixture reads, counted once without decoding a picture and kept in a table on disk.

A table belongs to one data file and to all that its counts depend on: the file's content, prompts, tokenizer, grid,
|C|, frame sampling and the folder of the videos. It lies beside the data as `.NAME.KEY.lengths`, or in the cache
folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cambrian_gaze.data.dataset import ConversationDataset
from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.inspect.survey import cores
from cambrian_gaze.data.media.image_files import MediaError, MissingMedia
from cambrian_gaze.data.mixture.mixture import MixtureDataset
from cambrian_gaze.data.records.places import locked, places_beside, writable_place
from cambrian_gaze.files import replacing

FORMAT = 2
"""Raised when the same facts come to count differently."""

COLUMNS = ("length", "units", "frames")
"""Of a table, int32 [rows, 3], see `dataset.Measure`. In `length` may stand instead:"""

UNCOUNTED, BAD_RECORD, BAD_VIDEO, MISSING_VIDEO = -1, -2, -3, -4
"""Not asked for yet; a record that is no sample; a video whose frames cannot be counted, or that is not there, which
may change."""

_CHUNK = 256
_STORE_SECONDS = 60.0
_IN_PROCESS = 2048
"""So few rows are counted sooner than workers start."""


def measure_mixture(dataset: MixtureDataset, *, workers: int | None = None, retry: bool = False) -> np.ndarray:
    """`COLUMNS` of each row of the mixture, int32 [rows, 3]. Only rows that the mixture reads are counted.

    workers: processes that count, by default one per core. retry: try again the videos that could not be counted.
    """
    sources, rows = dataset.mixture.locate_all(np.arange(len(dataset)))
    measures = np.empty((len(dataset), len(COLUMNS)), dtype=np.int32)
    for number, part in enumerate(dataset.parts):
        mine = sources == number
        measures[mine] = measure_rows(part, rows[mine], workers=workers, retry=retry)
    return measures


def measure_rows(
    dataset: ConversationDataset, rows: np.ndarray, *, workers: int | None = None, retry: bool = False
) -> np.ndarray:
    """`COLUMNS` of the records `rows` (int64 [n]), int32 [n, 3], read from the table on disk and added to it.

    Processes that want one table at once wait for the first of them where the file system has locks.
    """
    if not len(rows):
        return np.empty((0, len(COLUMNS)), dtype=np.int32)
    place = table_place(dataset)
    wanted = np.unique(rows)
    table = _read(place, len(dataset))
    if table is None or len(_missing(table, wanted, retry)):
        with locked(place):
            # Another process may have counted meanwhile.
            table = _read(place, len(dataset))
            if table is None:
                table = np.full((len(dataset), len(COLUMNS)), UNCOUNTED, dtype=np.int32)
            missing = _missing(table, wanted, retry)
            if len(missing):
                table = np.array(table)
                _fill(dataset, table, missing, workers, place)
    return np.asarray(table[rows])


def table_place(dataset: ConversationDataset) -> str:
    """The file that holds the table of a dataset."""
    file, key = os.path.abspath(dataset.records.file), _key(dataset)
    return writable_place(places_beside(file, f"{key}.lengths"), file)


def _key(dataset: ConversationDataset) -> str:
    folder = "" if dataset.video_folder is None else os.path.realpath(dataset.video_folder)
    facts = {
        "format": FORMAT,
        "records": dataset.records.identity(),
        "rows": len(dataset.records),
        "tokenizer": _tokenizer_digest(dataset.processor.tokenizer),
        "grid": [int(n) for n in dataset.processor.grid_hw],
        "context": dataset.processor.num_context_tokens,
        "sampling": dataset.options.sampling.identity(),
        "video_folder": [folder, dataset.video_folder and os.path.abspath(dataset.video_folder)],
        "image_position": dataset.options.image_position,
    }
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()


def _tokenizer_digest(tokenizer: Any) -> str:
    fast = getattr(tokenizer, "backend_tokenizer", None)
    text = fast.to_str() if fast is not None else json.dumps([type(tokenizer).__name__, tokenizer.get_vocab()])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _missing(table: np.ndarray, wanted: np.ndarray, retry: bool) -> np.ndarray:
    lengths = table[wanted, 0]
    return wanted[(lengths == UNCOUNTED) | ((lengths <= BAD_VIDEO) if retry else False)]


def _fill(dataset: ConversationDataset, table: np.ndarray, rows: np.ndarray, workers: int | None, place: str) -> None:
    """Count `rows` into the table and store it, also on the way, so that an interruption costs little."""
    workers = 0 if len(rows) <= _IN_PROCESS else cores() if workers is None else workers
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    loader = DataLoader(
        _Chunks(dataset, chunks), batch_size=None, num_workers=workers, prefetch_factor=8 if workers else None
    )
    name = f"counting tokens of {os.path.basename(dataset.records.file)}"
    stored = time.monotonic()
    with tqdm(total=len(rows), desc=name, unit=" rows", unit_scale=True, delay=1.0, leave=False) as bar:
        for chunk, measures in zip(chunks, loader, strict=True):
            table[chunk] = measures
            bar.update(len(chunk))
            if time.monotonic() - stored > _STORE_SECONDS:
                _write(place, table)
                stored = time.monotonic()
    _write(place, table)


class _Chunks(Dataset):
    """Item i is the measures of chunk i of the rows."""

    def __init__(self, dataset: ConversationDataset, chunks: list[np.ndarray]) -> None:
        self.dataset, self.chunks = dataset, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.array([self._measure(row) for row in self.chunks[index].tolist()], dtype=np.int32)

    def _measure(self, row: int) -> tuple[int, int, int]:
        try:
            return tuple(self.dataset.measure(row))
        except MissingMedia:
            return (MISSING_VIDEO, 0, 0)
        except MediaError:
            return (BAD_VIDEO, 0, 0)
        except RecordError:
            return (BAD_RECORD, 0, 0)


def _read(place: str, rows: int) -> np.ndarray | None:
    """The table, mapped; None where there is none, or one that is damaged."""
    try:
        table = np.load(place, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return table if table.shape == (rows, len(COLUMNS)) and table.dtype == np.int32 else None


def _write(place: str, table: np.ndarray) -> None:
    with replacing(place) as temporary, temporary.open("wb") as stream:
        np.save(stream, table, allow_pickle=False)
