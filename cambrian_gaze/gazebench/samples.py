"""Questions of GazeBench read back, for looking at them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cambrian_gaze.gazebench.spec import GazeBenchSpec


@dataclass(frozen=True)
class BenchSample:
    """One question."""

    row: dict[str, Any]
    """As `make` wrote it."""
    frames: tuple[Image.Image, ...]
    """The picture, or the frames of the video, RGB."""
    spec: GazeBenchSpec


def read_spec(folder: Path) -> GazeBenchSpec:
    """The knobs of a folder. Raises ValueError where it is no GazeBench."""
    path = folder / "spec.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no GazeBench; write one with: cambrian-gaze gazebench make --data_root ROOT")
    values = json.loads(path.read_text(encoding="utf-8"))
    values.pop("format")
    return GazeBenchSpec.from_dict(values)


def read_samples(folder: Path, split: str, count: int) -> list[BenchSample]:
    """The first `count` questions of each family. Raises ValueError where there are none."""
    spec = read_spec(folder)
    samples = []
    for family in spec.families:
        path = folder / family / f"{split}.jsonl"
        with open(path, encoding="utf-8") as lines:
            for row in (json.loads(line) for _, line in zip(range(count), lines, strict=False)):
                samples.append(BenchSample(row, tuple(_frames(folder, row)), spec))
    if not samples:
        raise ValueError(f"{folder} has no questions of split {split}")
    return samples


def _frames(folder: Path, row: dict[str, Any]) -> Iterator[Image.Image]:
    if "image" in row:
        paths = [folder / row["image"]]
    else:
        paths = sorted((folder / row["video"]).iterdir(), key=lambda path: int(path.stem))
    for path in paths:
        with Image.open(path) as image:
            yield image.convert("RGB")
