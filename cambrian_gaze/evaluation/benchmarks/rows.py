"""Rows and media of a benchmark, from the hub through `datasets`, or from a local copy below a data root.

A local copy is what `hf download OWNER/NAME --repo-type dataset --local-dir ROOT/OWNER/NAME` makes. Images stay
undecoded bytes until they are shown to a model.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from cambrian_gaze.data.media.image_files import MediaError, load_image, to_rgb
from cambrian_gaze.data.media.video import FrameSampling, load_frames
from cambrian_gaze.evaluation.benchmarks.declare import Benchmark, BenchmarkSource, Picture, VideoRef
from cambrian_gaze.evaluation.fingerprint import file_fingerprint, video_fingerprint
from cambrian_gaze.extras import require

_COMMIT = re.compile(r"[0-9a-f]{40}")


class BenchmarkRows:
    """The rows of a benchmark's split, in order, each a dict; its images undecoded.

    Raises: ValueError naming dataset, configuration and remedy where they cannot be read.
    """

    def __init__(self, benchmark: Benchmark, data_root: str | Path | None = None) -> None:
        self.benchmark = benchmark
        root = None if data_root is None else Path(data_root)
        place, self._parts, self._joined = _first_place(benchmark, root)
        self.source = benchmark.source.places[place]
        """The one of the source's places that was read."""
        self.folder = _folder(self.source, root)
        self._digests: dict[Path, str] = {}
        if self._joined is not None:
            self._places = {value: place for place, value in enumerate(self._joined[benchmark.join[2]])}
        read = [*(part for _, part in self._parts), *([] if self._joined is None else [self._joined])]
        self.revision = _revision(self.source, self.folder, read)
        """The commit that was read, or "local" where a local copy does not say."""

    def __len__(self) -> int:
        return sum(len(part) for _, part in self._parts)

    @property
    def columns(self) -> set[str]:
        """Fields that every row has."""
        names = set.intersection(*(set(part.column_names) for _, part in self._parts))
        return names | ({"image"} if self._joined is not None else set())

    def __getitem__(self, number: int) -> dict[str, Any]:
        rest = number
        for config, part in self._parts:
            if rest < len(part):
                return self._completed({**part[rest], "config": config}, number)
            rest -= len(part)
        raise IndexError(f"row {number} of {len(self)} of {self.benchmark.name}")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    def _completed(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        if self._joined is None:
            return row
        field, other, key = self.benchmark.join
        if row[field] not in self._places:
            raise ValueError(
                f"{self.benchmark.name}, row {number}: {field} is {row[field]!r}, but {other.config} of "
                f"{other.dataset} has no row with that {key}"
            )
        return {**row, "image": self._joined[self._places[row[field]]]["image"]}

    def fingerprint(self, medium: Picture | VideoRef) -> str:
        """Digest of a picture's or video's bytes."""
        if isinstance(medium, Picture) and medium.data is not None:
            return hashlib.sha256(medium.data).hexdigest()
        path = self.path(medium.path)
        if path not in self._digests:
            self._digests[path] = video_fingerprint(path) if isinstance(medium, VideoRef) else file_fingerprint(path)
        return self._digests[path]

    def load(self, medium: Picture | VideoRef, sampling: FrameSampling) -> Any:
        """A picture as RGB, a video as its sampled RGB frames. Raises MediaError naming what is wrong."""
        if isinstance(medium, VideoRef):
            path = self.path(medium.path).resolve()  # the hub's cache is made of links
            return load_frames(path.name, path.parent, sampling, clip=medium.clip)
        if medium.data is None:
            path = self.path(medium.path).resolve()
            return load_image(path.name, path.parent, flag="")
        try:
            with Image.open(io.BytesIO(medium.data)) as image:
                image.load()
                return to_rgb(_without_alpha(image))
        except MediaError:
            raise
        except Exception as error:  # decoders raise almost any type on damaged data
            raise MediaError(f"an image of {len(medium.data)} bytes cannot be decoded ({error})") from error

    def path(self, name: str) -> Path:
        """Where a file of the repository lies: in the local copy, or in the hub's cache, downloaded where needed.

        Raises: MediaError where it is not there.
        """
        dataset = self.source.dataset
        if self.folder is not None:
            path = self.folder / name
            if not path.exists():
                raise MediaError(f"{path} is missing", f"unpack the media of {dataset} in {self.folder}")
            return path
        if self.benchmark.video:
            remedy = f"download and unpack {dataset} to ROOT/{dataset} and give --data_root ROOT"
            raise MediaError(f"the videos of {self.benchmark.name} are read from a local copy only", remedy)
        from huggingface_hub import hf_hub_download

        revision = self.revision if _COMMIT.fullmatch(self.revision) else self.source.revision
        return Path(hf_hub_download(dataset, name, repo_type="dataset", revision=revision))


def _folder(source: BenchmarkSource, root: Path | None) -> Path | None:
    return None if root is None else root / source.dataset


def _first_place(benchmark: Benchmark, root: Path | None) -> tuple[int, list[tuple[str | None, Any]], Any]:
    """The first of the source's places that can be read: its number, its parts by configuration, the joined rows.

    Raises: ValueError with what was wrong with each.
    """
    errors: list[str] = []
    for number, source in enumerate(benchmark.source.places):
        folder = _folder(source, root)
        if folder is not None and not folder.is_dir():
            continue
        configs = source.config if isinstance(source.config, tuple) else (source.config,)
        try:
            parts = [(config, _read(source, config, folder, benchmark.spellings)) for config in configs]
            other = None if benchmark.join is None else benchmark.join[1].places[number]
            return number, parts, None if other is None else _read(other, other.config, folder, {})
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError("; ".join(errors))
    first, *before = dict.fromkeys(source.dataset for source in benchmark.source.places)
    names = first + (f" ({' or '.join(before)} will do)" if before else "")
    raise ValueError(
        f"there is no local copy of {names} in {root / first}; make one with: hf download {first} "
        f"--repo-type dataset --local-dir {root / first}"
    )


def _read(source: BenchmarkSource, config: str | None, folder: Path | None, spellings: Mapping[str, str]) -> Any:
    datasets = require("datasets", extra="data")
    where = source.dataset if folder is None else str(folder)
    try:
        part = datasets.load_dataset(
            where,
            config,
            split=source.split,
            data_files=source.data_files,
            revision=source.revision if folder is None else None,
        )
    except Exception as error:  # datasets raises many types, some its own
        named = f"{where}, configuration {config or 'default'}, split {source.split}"
        raise ValueError(f"cannot read {named}: {type(error).__name__}: {error}") from error
    for name, feature in part.features.items():
        if isinstance(feature, datasets.Image):
            part = part.cast_column(name, datasets.Image(decode=False))
    for other, name in spellings.items():
        if other in part.column_names and name not in part.column_names:
            part = part.rename_column(other, name)
    return part


def _without_alpha(image: Image.Image) -> Image.Image:
    """As `convert("RGB")` has it, which the upstream evaluations call: transparency is dropped, not put on white."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGB")
        image.info.pop("transparency", None)
    return image


def _revision(source: BenchmarkSource, folder: Path | None, parts: list[Any]) -> str:
    """The commit after which `datasets` names the folder of its cache, also offline; or that in the metadata that
    `hf download` leaves in a local copy.

    Raises: ValueError where the parts come from several commits.
    """
    if folder is None:
        places = {Path(file["filename"]).parent.name for part in parts for file in part.cache_files}
        found = sorted(filter(_COMMIT.fullmatch, places))
        if len(found) > 1:
            raise ValueError(f"{source.dataset} was changed while it was read ({', '.join(found)}); start again")
        return found[0] if found else source.revision
    for note in sorted((folder / ".cache" / "huggingface" / "download").rglob("*.metadata")):
        commit = note.read_text(encoding="utf-8").split("\n", 1)[0].strip()
        if _COMMIT.fullmatch(commit):
            return commit
    return "local"
