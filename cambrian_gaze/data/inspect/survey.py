"""Goes through every record of a recipe on several processes and adds up what it finds."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from tqdm import tqdm

from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.inspect.record import Inspector, Problem
from cambrian_gaze.data.mixture.recipe import Recipe, Source
from cambrian_gaze.data.mixture.recipe_file import RecipeError
from cambrian_gaze.data.records.records import Record
from cambrian_gaze.machine import cores

_CHUNK = 256


class WorkerDied(RuntimeError):
    """A process that read records ended by itself, killed for its memory or crashed in a decoder. Names the row."""


class Finding(NamedTuple):
    """A record with something wrong."""

    row: int
    """As in `Record.row`."""
    id: str
    problems: list[Problem]


@dataclass
class Facts:
    """What was found in some rows of a source; facts of several parts can be added up."""

    rows: int = 0
    bad_rows: int = 0
    """Rows with at least one problem."""
    images: int = 0
    videos: int = 0
    text_only: int = 0
    duplicates: int = 0
    """Rows that repeat an earlier one: media, clip, text and, where they have one, id are the same. Known once all rows
    were seen."""
    problems: Counter[str] = field(default_factory=Counter)
    """Kind → how often; a record with two missing images counts twice."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Tokens of a sample → samples."""
    visual: Counter[int] = field(default_factory=Counter)
    """Visual and context tokens of a sample → samples."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(width, height) in pixels → images."""
    frames: Counter[int] = field(default_factory=Counter)
    """Frames taken of a video → videos."""
    units: Counter[int] = field(default_factory=Counter)
    """Images and frames of a sample → samples."""

    def add(self, other: Facts) -> None:
        """Adds up the other's numbers."""
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)


class SurveyPart(NamedTuple):
    """What a worker sends back for one run of rows."""

    source: int
    """Number of the source in the recipe."""
    facts: Facts
    findings: list[Finding]
    fingerprints: np.ndarray


@dataclass
class SourceSurvey:
    """What was found in one source."""

    source: Source
    facts: Facts = field(default_factory=Facts)
    broken: str = ""
    """Why the file as a whole cannot be read, and the remedy."""


def survey(
    recipe: Recipe, inspector: Inspector, workers: int | None = None
) -> Iterator[tuple[SourceSurvey, list[Finding]]]:
    """Every row of every source, in order: the source's survey so far and the findings that are new in it.

    A source is given once more, without findings, when it is complete. `workers` are processes (default: one per core,
    0: this one, which a decoder that crashes takes with it). Raises WorkerDied.
    """
    surveys = [SourceSurvey(source) for source in recipe.sources]
    records: list[Sequence[Record]] = []
    for one in surveys:
        try:
            records.append(one.source.records())
        except (RecordError, RecipeError) as error:
            one.broken = str(error)
            records.append([])
    parts = _Parts(recipe.sources, records, inspector)
    fingerprints: list[list[np.ndarray]] = [[] for _ in surveys]
    with tqdm(total=sum(map(len, records)), desc=recipe.name, unit=" rows", unit_scale=True, delay=1.0) as bar:
        for number, one in enumerate(surveys):
            for part in parts.of_source(number, workers):
                one.facts.add(part.facts)
                fingerprints[number].append(part.fingerprints)
                bar.update(part.facts.rows)
                yield one, part.findings
            seen = np.concatenate([np.empty(0, np.uint64), *fingerprints[number]])
            one.facts.duplicates = len(seen) - len(np.unique(seen))
            fingerprints[number] = []
            yield one, []


class _Parts:
    def __init__(self, sources: Sequence[Source], records: list[Sequence[Record]], inspector: Inspector) -> None:
        self.sources, self.records, self.inspector = sources, records, inspector

    def of_source(self, number: int, workers: int | None) -> Iterator[SurveyPart]:
        chunks = _Chunks(self, number)
        workers = min(cores() if workers is None else workers, len(chunks))
        chunks.reading = torch.full((workers, 2), -1).share_memory_()
        loader = DataLoader(chunks, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
        try:
            yield from loader
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):
                raise
            rows = ", ".join(map(str, chunks.rows_of_the_dead(str(error))))
            cause = str(error.__cause__ or error).rstrip(" .")
            raise WorkerDied(
                f"a process died while it read row {rows} of {self.sources[number].path} ({cause}): "
                "replace the media of this row, or delete it; if memory ran out, use fewer --workers"
            ) from error


class _Chunks(Dataset):
    """Item i is what was found in the i-th run of rows of a source."""

    def __init__(self, parts: _Parts, number: int) -> None:
        self.parts, self.number = parts, number
        self.reading = torch.empty(0, 2, dtype=torch.int64)
        """Shared with the workers, int64 [workers, 2]: process id of each, and the index of the record it reads."""

    def rows_of_the_dead(self, error: str) -> list[int]:
        """`Record.row` of what the workers were reading whose process ids the loader's error names."""
        dead = {int(pid) for pid in re.findall(r"\d+", error)}
        indices = [index for pid, index in self.reading.tolist() if pid in dead]
        return self.parts.records[self.number].row_numbers()[indices].tolist()

    def __len__(self) -> int:
        return -(-len(self.parts.records[self.number]) // _CHUNK)

    def __getitem__(self, index: int) -> SurveyPart:
        records, source = self.parts.records[self.number], self.parts.sources[self.number]
        facts, findings, fingerprints = Facts(), [], []
        worker, reading = get_worker_info(), self.reading.numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what decoders mutter; what matters is raised
            for row in range(index * _CHUNK, min((index + 1) * _CHUNK, len(records))):
                if worker is not None:
                    reading[worker.id] = os.getpid(), row
                found = self.parts.inspector.row(records, row, (source.image_folder, source.video_folder))
                facts.rows += 1
                facts.images += found.images
                facts.videos += found.videos
                facts.text_only += not found.images and not found.videos and found.fingerprint is not None
                facts.bad_rows += bool(found.problems)
                facts.problems.update(problem.kind for problem in found.problems)
                facts.sizes.update(found.sizes)
                if found.frames is not None:
                    facts.frames[found.frames] += 1
                if found.length is not None:
                    facts.lengths[found.length] += 1
                    facts.visual[found.visual] += 1
                    facts.units[found.images + (found.frames or 0)] += 1
                if found.fingerprint is not None:
                    fingerprints.append(found.fingerprint)
                if found.problems:
                    findings.append(Finding(found.row, found.id, found.problems))
        return SurveyPart(self.number, facts, findings, np.array(fingerprints, dtype=np.uint64))
