"""What `cambrian-gaze bench data` measures on: rows, pictures, videos and lengths that it makes itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cambrian_gaze.data.media.aspect import preprocess_images
from cambrian_gaze.extras import require

_CHUNK = 50_000
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class BenchProcessor:
    """SigLIP's sizes at 384 pixels, and the tokenizer that ships with this package."""

    tokenizer: Any
    num_context_tokens: int = 4
    grid_hw: tuple[int, int] = (24, 24)
    image_aspect_ratio: str = "square"

    @staticmethod
    def tiny() -> BenchProcessor:
        from transformers import AutoTokenizer

        return BenchProcessor(AutoTokenizer.from_pretrained(str(Path(str(files("cambrian_gaze"))) / "assets" / "tiny")))

    def preprocess_images(self, images: list[Image.Image]) -> torch.Tensor:
        """RGB pictures → float32 [len(images), 3, 384, 384]."""
        return preprocess_images(images, (384, 384), _HALF, _HALF, self.image_aspect_ratio)


def write_rows(file: Path, count: int, kind: str) -> Path:
    """Small records of about 160 bytes: `lines` (JSONL) or an `array`."""
    separator = ",\n" if kind == "array" else "\n"
    with open(file, "w", encoding="utf-8") as stream:
        stream.write("[" if kind == "array" else "")
        for start in range(0, count, _CHUNK):
            stop = min(count, start + _CHUNK)
            stream.write(separator.join(_records(start, stop)) + ("" if stop == count else separator))
        stream.write("]\n" if kind == "array" else "\n")
    return file


def _records(start: int, stop: int) -> Iterator[str]:
    for i in range(start, stop):
        yield (
            f'{{"id": "{i}", "image": "images/{i}.jpg", "conversations": [{{"from": "human", "value": '
            f'"<image>\\nWhat is it?"}}, {{"from": "gpt", "value": "Picture {i}."}}]}}'
        )


def write_images(folder: Path, count: int) -> list[str]:
    """JPEGs of 640 × 480 with some detail; their names."""
    return [_saved(folder / f"{i}.jpg", _scene(i)) for i in range(count)]


def _saved(path: Path, picture: np.ndarray) -> str:
    Image.fromarray(picture).save(path, quality=90)
    return path.name


def write_videos(folder: Path, count: int, frames: int) -> list[str]:
    """H.264 at 30 frames a second, 640 × 480, the scene moving sideways; their names. Needs the extra `pyav`."""
    av = require("av", extra="pyav")
    names = []
    for number in range(count):
        names.append(f"{number}.mp4")
        scene = _scene(number)
        with av.open(str(folder / names[-1]), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
            stream.options = {"preset": "veryfast", "g": "60"}
            for i in range(frames):
                moved = av.VideoFrame.from_ndarray(np.roll(scene, 4 * i, 1), format="rgb24")
                container.mux(stream.encode(moved))
            container.mux(stream.encode())
    return names


def _scene(seed: int) -> np.ndarray:
    """uint8 [480, 640, 3]: coarse noise made smooth, with fine noise on it."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480))
    return np.clip(np.asarray(coarse) + generator.normal(0, 6, (480, 640, 3)), 0, 255).astype(np.uint8)


def mixed_lengths(count: int) -> np.ndarray:
    """int64 [count]: tokens of one part text, two parts images of 576 + 4, one part videos of 8 to 64 frames of
    144 + 4, each with a text of 20 to 1,500 tokens, mostly short."""
    generator = np.random.default_rng(0)
    text = 20 + np.minimum(generator.exponential(200, count), 1480).astype(np.int64)
    frames = generator.integers(8, 65, count)
    visual = np.choose(generator.choice(3, count, p=[0.25, 0.5, 0.25]), [0 * frames, 0 * frames + 580, 148 * frames])
    return text + visual
