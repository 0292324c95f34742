"""Samples as the model will see them, taken apart for people: pictures, tokens with their roles, what is supervised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.media.aspect import unstretched
from cambrian_gaze.data.mixture.mixture import MixtureDataset
from cambrian_gaze.gaze.token_types import IGNORED_LABEL, TEXT_TYPE, VIDEO_TYPE

MAX_FRAMES = 8
"""Frames of a video that are shown, evenly spread."""

CONTROL = "control"
"""Role of special tokens and the names of speakers; the others are those of messages."""


@dataclass(frozen=True)
class Token:
    """One text token."""

    text: str
    id: int
    role: str
    """system, user, assistant or CONTROL."""
    supervised: bool
    place: int
    """Index in the sample."""


@dataclass(frozen=True)
class VisualRun:
    """The tokens of one image or video."""

    name: str
    """Such as "image 1" or "video 2"."""
    frames: int
    """1 for an image."""
    grid: tuple[int, int]
    """Rows and columns of visual tokens of a frame."""
    num_context_tokens: int
    """After each frame."""
    place: int
    """Index of the first of its tokens in the sample."""


@dataclass(frozen=True)
class Picture:
    """An image or frame as it goes into the vision tower: resized and quantised, padded where the processor pads. Where
    it stretches, drawn out again to the picture's own shape."""

    name: str
    """Such as "image 1" or "video 2, frame 3"."""
    image: Image.Image


@dataclass
class Preview:
    """One record."""

    source: str
    file: str
    row: int
    id: str
    error: str = ""
    """Why there is no sample; then nothing else is known but the conversation as written."""
    pieces: list[Token | VisualRun] = field(default_factory=list)
    grid: tuple[int, int] = (0, 0)
    """Rows and columns of visual tokens of an image or frame."""
    pictures: list[Picture] = field(default_factory=list)
    hidden_frames: int = 0
    """Frames beyond MAX_FRAMES of each video."""
    num_tokens: int = 0
    num_supervised: int = 0
    num_visual: int = 0
    """Visual and context tokens."""
    turns: list[tuple[str, str]] = field(default_factory=list)
    """(speaker, text) as written, where the record could be read."""


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly from the first to the last."""
    return np.unique(np.linspace(0, max(0, count - 1), min(most, count)).round().astype(int)).tolist()


def preview_row(
    dataset: MixtureDataset, source: int, index: int, mean: Sequence[float], std: Sequence[float]
) -> Preview:
    """Record `index` of a source. `mean` and `std` are those that the processor normalises with.

    The dataset must raise errors (`on_error="raise"`); they are shown, not raised again.
    """
    part, records = dataset.parts[source], dataset.mixture.records[source]
    row = int(records.row_numbers()[index])
    preview = Preview(dataset.mixture.source_names[source], dataset.mixture.sources[source].path, row, "")
    try:
        record = records[index]
        preview.id = record.id
        preview.turns = [(turn["from"], turn["value"]) for turn in record.conversations]
        sample = part[index]
    except RecordError as error:
        preview.error = str(type(error)(error.reason, error.remedy))
        return preview
    processor = part.processor
    grids = sample["grid_thw"].tolist() if "grid_thw" in sample else []
    types = sample["mm_token_type_ids"].tolist()
    preview.grid = tuple(processor.grid_hw)
    preview.pieces = _pieces(sample, processor.tokenizer, grids, processor.num_context_tokens)
    preview.num_tokens = len(types)
    preview.num_supervised = int((sample["labels"] != IGNORED_LABEL).sum())
    preview.num_visual = sum(kind != TEXT_TYPE for kind in types)
    if grids:
        runs = [piece for piece in preview.pieces if isinstance(piece, VisualRun)]
        names: list[str] = []
        shown: list[int] = []
        for run in runs:
            shown += [len(names) + frame for frame in spread(run.frames, MAX_FRAMES)]
            names += [f"{run.name}, frame {i}" for i in range(1, run.frames + 1)] if run.frames > 1 else [run.name]
        pixels = sample["pixel_values"][shown]
        sizes = sample["picture_sizes"][shown].tolist()
        preview.pictures = [
            Picture(names[i], unstretched(picture(one, mean, std), tuple(size), processor.image_aspect_ratio))
            for i, one, size in zip(shown, pixels, sizes, strict=True)
        ]
        preview.hidden_frames = len(names) - len(shown)
    return preview


def picture(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """Pixel values [3, H, W] as the vision tower gets them → the picture that they stand for."""
    values = pixels.double() * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    return Image.fromarray((values * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())


def _pieces(
    sample: dict[str, Any], tokenizer: Any, grids: list[list[int]], num_context_tokens: int
) -> list[Token | VisualRun]:
    """The sample's tokens in order, those of one image or video as one piece."""
    ids, labels = sample["input_ids"].tolist(), sample["labels"].tolist()
    types = sample["mm_token_type_ids"].tolist()
    texts = _texts(ids, types, tokenizer)
    start_id, end_id = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    pieces: list[Token | VisualRun] = []
    items, seen = iter(grids), {"image": 0, "video": 0}
    place, role, heading = 0, CONTROL, None
    while place < len(ids):
        if types[place] != TEXT_TYPE:
            kind = "video" if types[place] == VIDEO_TYPE else "image"
            seen[kind] += 1
            frames, height, width = next(items)
            pieces.append(VisualRun(f"{kind} {seen[kind]}", frames, (height, width), num_context_tokens, place))
            place += frames * (height * width + num_context_tokens)
            continue
        if ids[place] == start_id:
            heading = ""
        elif ids[place] == end_id:
            role = CONTROL
        elif heading is not None:
            heading += texts[place]
        shown = CONTROL if heading is not None or ids[place] == end_id else role
        pieces.append(Token(texts[place], ids[place], shown, labels[place] != IGNORED_LABEL, place))
        if heading is not None and heading.endswith("\n"):
            role, heading = heading.strip(), None
        place += 1
    return pieces


def _texts(ids: list[int], types: list[int], tokenizer: Any) -> list[str]:
    """What each text token stands for. Of a character in several tokens the first has all, the others nothing."""
    texts, place = [""] * len(ids), 0
    while place < len(ids):
        if types[place] != TEXT_TYPE:
            place += 1
            continue
        text, after = tokenizer.decode([ids[place]]), place + 1
        for end in range(place + 2, min(place + 5, len(ids) + 1)):
            if "\ufffd" not in text or types[end - 1] != TEXT_TYPE:
                break
            whole = tokenizer.decode(ids[place:end])
            if "\ufffd" not in whole:
                text, after = whole, end
        texts[place] = text
        place = after
    return texts
