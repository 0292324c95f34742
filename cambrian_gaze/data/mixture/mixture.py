"""Mixtures: which files a run reads, which rows of each, how often, and row i of the whole.

Nothing here holds a row: a source opens its file through the index, a mixture holds what was drawn, as numpy arrays.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cambrian_gaze.data.mixture.prompts import PromptedRecords, add_prompts
from cambrian_gaze.data.mixture.recipe_file import RecipeError, read_recipe, read_share
from cambrian_gaze.data.mixture.sampling import ChosenRows, Sampling
from cambrian_gaze.data.records.records import Layout, Record, Records, RecordSequence
from cambrian_gaze.data.records.tables import HUB, TableRecords, TableStream, is_table

PLAIN_KEYS = (
    *("system_prompt", "prompt_suffix", "expected", "columns", "ignore_keys", "fps", "config", "split", "streaming"),
)
"""Keys of an entry that are fields of `Source` as they stand."""

RECIPE_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Source:
    """One file of a mixture."""

    name: str
    path: str
    image_folder: str | None = None
    """Folder of its images; None: the run's."""
    video_folder: str | None = None
    """Folder of its videos and frames; None: the run's."""
    sampling: Sampling = field(default_factory=Sampling)
    system_prompt: str | None = None
    """Said where a record has no system turn of its own."""
    prompt_suffix: str | None = None
    """Added on a line of its own to the last human turn, such as "Answer with one word."."""
    expected: Mapping[str, int] = field(default_factory=dict)
    """Counts to compare a download with, see `EXPECTED_KEYS`; `rows` are those of the whole file."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Key of a record → column of a table, or key of a JSON row."""
    ignore_keys: Sequence[str] = ()
    """Keys of its rows that are no media and cut no clip, whatever they look like."""
    fps: float | None = None
    """Frames per second of its folders and lists of frames, where a record does not say."""
    config: str | None = None
    """Of a hub dataset: its configuration."""
    split: str = "train"
    """Of a hub dataset."""
    streaming: bool = False
    """Read in the table's order, without random access."""
    origin: str = "data_path"
    """Where this source was named: the recipe and its entry."""

    def is_missing(self) -> bool:
        """Whether there is nothing at `path`."""
        return not self.path.startswith(HUB) and not os.path.exists(self.path)

    def records(self) -> RecordSequence:
        """All rows of the file, in its order, read on demand in O(1). Raises RecordError, RecipeError."""
        if self.streaming:
            raise RecipeError(f"{self.origin}: {self.path} is streamed, and this needs random access; drop `streaming`")
        self._check_there()
        if is_table(self.path):
            records = TableRecords(self.path, None, self.config, self.split, layout=self.layout)
        else:
            records = Records(self.path, layout=self.layout)
        if self.system_prompt is None and self.prompt_suffix is None:
            return records
        return PromptedRecords(records, self.system_prompt, self.prompt_suffix)

    def stream(self, rank: int = 0, world_size: int = 1) -> TableStream:
        """The rows of a table in its order, this rank's share. Raises RecordError, RecipeError."""
        self._check_there()
        if not is_table(self.path):
            raise RecipeError(f"{self.origin}: {self.path} is no table; JSON is read in place, drop `streaming`")
        if self.sampling != Sampling():
            raise RecipeError(f"{self.origin}: a stream is read whole; drop its sampling_strategy, weight or share")
        options = {"layout": self.layout, "rank": rank, "world_size": world_size}
        return TableStream(self.path, None, self.config, self.split, **options)

    @property
    def layout(self) -> Layout:
        """What it says about the keys of its rows."""
        return Layout(self.columns, self.ignore_keys, self.fps)

    def prompt(self, record: Record) -> Record:
        """The record with this source's prompt options."""
        return add_prompts(record, self.system_prompt, self.prompt_suffix)

    def _check_there(self) -> None:
        if self.is_missing():
            raise RecipeError(f"{self.origin}: {self.path} does not exist; download it, or correct the path or `root`")


@dataclass(frozen=True)
class Recipe:
    """The sources of a run and the seed of everything that is drawn from them."""

    name: str
    file: str | None
    sources: tuple[Source, ...]
    seed: int = 0


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """A recipe file. Paths in it start from its `root`, which starts from the folder of the recipe; `~` and `$NAMES`
    are understood. Nothing is opened yet: data that is missing is an error when its records are asked for.

    Raises: RecipeError that names the file, the entry and the nearest known key.
    """
    content, file = read_recipe(path), os.fspath(path)
    root = _below(Path(file).parent, content.get("root", "."))
    sources = []
    for number, entry in enumerate(content["datasets"], 1):
        where = f"{file}, entry {number}"
        try:
            sampling = Sampling.parse(entry.get("sampling_strategy", "all"))
        except ValueError as error:
            raise RecipeError(f"{where}: {error}") from error
        weight = float(entry.get("weight", 1.0))
        if not 0 < weight < math.inf:
            raise RecipeError(f"{where}: weight is {weight:g}; write a positive number, or delete the entry")
        share = read_share(entry["share"], where) if "share" in entry else None
        plain = {key: entry[key] for key in PLAIN_KEYS if key in entry}
        folders = {key: _below(root, entry[key]) for key in ("image_folder", "video_folder") if key in entry}
        source = entry.get("path") or entry["json_path"]
        source = source if source.startswith(HUB) else _below(root, source)
        name = entry.get("name") or _free_name(Path(source).stem, [source.name for source in sources])
        if name in [source.name for source in sources]:
            raise RecipeError(f"{where}: the name {name!r} is taken by another entry; give each its own")
        sampling = replace(sampling, weight=weight, share=share)
        sources.append(Source(name, source, sampling=sampling, origin=where, **folders, **plain))
    return Recipe(content.get("name") or Path(file).stem, file, tuple(sources), content.get("seed", 0))


def recipe_of(
    paths: Sequence[str | os.PathLike[str]],
    image_folder: str | os.PathLike[str] | None = None,
    video_folder: str | os.PathLike[str] | None = None,
) -> Recipe:
    """Recipes and data files as one recipe; `image_folder` and `video_folder` where a source has none of its own.

    A source with an image folder and no video folder looks for videos in `video_folder`, or else with its images.
    Raises: RecipeError, also where two recipes have different seeds.
    """
    if not paths:
        raise RecipeError("no data: name a recipe (YAML) or JSON, JSONL or Parquet files of conversations")
    recipes = [load_recipe(path) for path in paths if Path(path).suffix in RECIPE_SUFFIXES]
    if len({recipe.seed for recipe in recipes}) > 1:
        raise RecipeError(f"{', '.join(str(r.file) for r in recipes)} have different seeds; give all of them one")
    sources: list[Source] = []
    of_file = {recipe.file: recipe for recipe in recipes}
    for path in map(os.fspath, paths):
        found = of_file[path].sources if path in of_file else [Source(Path(path).stem, path)]
        sources += [replace(s, name=_free_name(s.name, [source.name for source in sources])) for s in found]
    image, video = (None if folder is None else os.fspath(folder) for folder in (image_folder, video_folder))
    for i, source in enumerate(sources):
        images = source.image_folder or image
        videos = source.video_folder or video or images
        sources[i] = replace(source, image_folder=images, video_folder=videos)
    if len(recipes) == len(paths) == 1:
        return replace(recipes[0], sources=tuple(sources))
    name = ", ".join(Path(path).stem for path in paths)
    return Recipe(name, None, tuple(sources), recipes[0].seed if recipes else 0)


class Mixture:
    """The rows of one epoch: those of the first source, then those of the next; the same in every epoch.

    With shares s and R rows in the sources that have none, the mixture has R / (1 - Σs) rows. Where all sources have
    one, it is the largest mixture in which no row is seen twice. Draws depend on the recipe's seed and the source's
    name alone.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Opens the sources. Raises RecordError, RecipeError."""
        self.recipe = recipe
        self.sources = recipe.sources
        self.source_names = [source.name for source in recipe.sources]
        self.records = [source.records() for source in recipe.sources]
        """Per source all rows of its file, see `Source.records`."""
        self._chosen = []
        for source, records, weight in zip(self.sources, self.records, self._weights(), strict=True):
            seed = [recipe.seed, zlib.crc32(source.name.encode())]
            self._chosen.append(ChosenRows(len(records), source.sampling, weight, seed))
        self.counts = [len(chosen) for chosen in self._chosen]
        """Rows of an epoch per source."""
        self._ends = np.cumsum(self.counts)
        if not len(self):
            raise RecipeError(f"{recipe.file or recipe.name}: the mixture has no rows; raise a weight")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Row of the mixture → (number of its source, row of that source's records), all from 0."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a mixture of {len(self)}")
        sources, rows = self.locate_all(np.array([index]))
        return int(sources[0]), int(rows[0])

    def locate_all(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `locate`, for an array of rows: two int64 arrays."""
        indices = np.asarray(indices, np.int64)
        sources = np.searchsorted(self._ends, indices, side="right")
        rows = np.empty_like(indices)
        for number, chosen in enumerate(self._chosen):
            mine = sources == number
            if mine.any():
                rows[mine] = chosen.rows(indices[mine] - (self._ends[number] - self.counts[number]))
        return sources, rows

    def expected_missing(self) -> float:
        """Samples of an epoch without their media, as the sources declare them of all their rows."""
        declared = [
            min(1.0, source.expected.get("missing", 0) / len(records)) * count
            for source, records, count in zip(self.sources, self.records, self.counts, strict=True)
        ]
        return float(sum(declared))

    def _weights(self) -> list[float]:
        """The weight of each source, its share turned into one."""
        where = self.recipe.file or self.recipe.name
        parts = []
        for source, records in zip(self.sources, self.records, strict=True):
            try:
                parts.append(source.sampling.part_of(len(records)))
            except ValueError as error:
                raise RecipeError(f"{source.origin}: {source.path}: {error}") from error
        samplings = [source.sampling for source in self.sources]
        shares = [sampling.share for sampling in samplings if sampling.share is not None]
        if len(shares) < len(samplings):
            if sum(shares) >= 1:
                raise RecipeError(f"{where}: shares of {sum(shares):.0%} leave nothing for the others; lower them")
            fixed = sum(n * s.weight for n, s in zip(parts, samplings, strict=True) if s.share is None)
            total = fixed / (1 - sum(shares))
        elif abs(sum(shares) - 1) > 1e-6:
            raise RecipeError(f"{where}: all sources have a share, and together {sum(shares):.1%}; make them 100%")
        else:
            total = min(part / share for part, share in zip(parts, shares, strict=True))
        return [
            sampling.weight if sampling.share is None else sampling.share * total / part
            for sampling, part in zip(samplings, parts, strict=True)
        ]


def _below(root: str | Path, path: str) -> str:
    return os.path.normpath(os.path.join(root, os.path.expanduser(os.path.expandvars(path))))


def _free_name(name: str, taken: Sequence[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free
