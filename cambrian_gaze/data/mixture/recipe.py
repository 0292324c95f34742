"""Recipes: the sources of a run, each a file with how much of it is seen, its folders, keys and prompts.

Nothing is read here but the recipe itself: a source opens its file when its records are asked for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cambrian_gaze.data.mixture.recipe_file import RecipeError, read_recipe, read_share
from cambrian_gaze.data.mixture.sampling import Sampling
from cambrian_gaze.data.records.records import Layout, Records, RecordSequence
from cambrian_gaze.data.records.tables import DEFAULT_SPLIT, HUB, TableRecords, TableStream, is_table

PLAIN_KEYS = (
    "system_prompt",
    "prompt_suffix",
    "expected",
    "columns",
    "ignore_keys",
    "fps",
    "config",
    "split",
    "streaming",
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
    """System turn of records that have none of their own."""
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
    split: str = DEFAULT_SPLIT
    """Of a hub dataset or a folder of tables."""
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
            return TableRecords(self.path, None, self.config, self.split, layout=self.layout)
        if self.config is not None or self.split != DEFAULT_SPLIT:
            raise RecipeError(
                f"{self.origin}: {self.path} is no table; drop `config` and `split`, or name another file"
            )
        return Records(self.path, layout=self.layout)

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
        """How its rows become records."""
        return Layout(self.columns, self.ignore_keys, self.fps, self.system_prompt, self.prompt_suffix)

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


def with_system(recipe: Recipe, processor: Any) -> Recipe:
    """The recipe, whose sources say the checkpoint's system prompt where they have none of their own: the prompts of
    training are those of answering."""
    if not processor.system_prompt:
        return recipe
    sources = [
        replace(source, system_prompt=processor.system_prompt) if source.system_prompt is None else source
        for source in recipe.sources
    ]
    return replace(recipe, sources=tuple(sources))


def _below(root: str | Path, path: str) -> str:
    return os.path.normpath(os.path.join(root, os.path.expanduser(os.path.expandvars(path))))


def _free_name(name: str, taken: Sequence[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free
