"""Records to samples, one at a time and on demand."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from cambrian_gaze.data.conversation import messages_from_record, visuals
from cambrian_gaze.data.encode import OVERLONG, encode_conversation, limit_length
from cambrian_gaze.data.media import MAX_PIXELS, load_image
from cambrian_gaze.data.quarantine import Quarantined, QuarantineLog
from cambrian_gaze.data.records import Record, RecordError
from cambrian_gaze.data.video import FrameSampling, load_frames

logger = logging.getLogger(__name__)

Sample = dict[str, Any]


class SampleProcessor(Protocol):
    """What the dataset needs of a processor."""

    tokenizer: Any
    num_context_tokens: int
    grid_hw: tuple[int, int]
    """Height and width of a unit's grid after the projector."""

    def preprocess_images(self, images: list[Image.Image]) -> torch.Tensor:
        """RGB pictures → float32 [len(images), 3, H, W]."""


class ConversationDataset(Dataset):
    """Map-style: item i is record i as tensors, or a `Quarantined` that says why there is none.

    A sample: `id` and `source` (str), `input_ids`, `labels`, `mm_token_type_ids` (int64 [S]) and, unless it is text
    only, `pixel_values` (float32 [units, 3, H, W]: images and frames in order of appearance) and `grid_thw` (int64
    [items, 3]: one row per image or video).
    """

    def __init__(
        self,
        records: Sequence[Record],
        processor: SampleProcessor,
        image_folder: str | os.PathLike[str] | None = None,
        video_folder: str | os.PathLike[str] | None = None,
        *,
        sampling: FrameSampling | None = None,
        max_length: int | None = None,
        overlong: str = "quarantine",
        on_error: str = "quarantine",
        quarantine: QuarantineLog | None = None,
        max_pixels: int = MAX_PIXELS,
        source: str = "",
    ):
        """`video_folder` is `image_folder` unless given. `overlong`: see `limit_length`. `source`: its name in the log.

        `on_error`: "quarantine" turns a record's errors into `Quarantined` items, logged in `quarantine` where given;
        "raise" raises them.
        """
        for name, value, known in (
            ("overlong", overlong, OVERLONG),
            ("on_error", on_error, ("quarantine", "raise")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; use one of {', '.join(known)}")
        self.records = records
        self.processor = processor
        self.image_folder = image_folder
        self.video_folder = image_folder if video_folder is None else video_folder
        self.sampling = sampling or FrameSampling()
        self.max_length = max_length
        self.overlong = overlong
        self.on_error = on_error
        self.quarantine = quarantine
        self.max_pixels = max_pixels
        self.source = source

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample | Quarantined:
        identity = ""
        try:
            record = self.records[index]
            identity = record.id
            return self._encode(record)
        except RecordError as error:
            if self.on_error == "raise":
                raise
            return self._set_aside(Quarantined(error.file or "", error.row or 0, identity, str(error), self.source))

    def _encode(self, record: Record) -> Sample:
        try:
            messages = messages_from_record(record)
            images, grids = self._load(record, visuals(messages))
            tokenizer, num_context_tokens = self.processor.tokenizer, self.processor.num_context_tokens
            encoded = encode_conversation(messages, tokenizer, grids, num_context_tokens)
            if self.max_length is not None:
                encoded = limit_length(encoded, self.max_length, self.overlong)
        except RecordError as error:
            raise error.at(record.file, record.row) from error.__cause__
        except OSError as error:
            reason, remedy = f"its media cannot be read ({error})", "check the disk and the folder's permissions"
            raise RecordError(reason, remedy, record.file, record.row) from error
        sample: Sample = {key: torch.from_numpy(np.array(values, dtype=np.int64)) for key, values in encoded.items()}
        if images:
            sample["pixel_values"] = self.processor.preprocess_images(images)
            sample["grid_thw"] = torch.tensor(grids, dtype=torch.int64)
        return sample | {"id": record.id, "source": self.source}

    def _load(self, record: Record, kinds: Sequence[str]) -> tuple[list[Image.Image], list[tuple[int, int, int]]]:
        """All pictures in order of appearance, and the grid of each image or video."""
        pictures: list[Image.Image] = []
        grids = []
        paths = iter(record.images)
        for kind in kinds:
            if kind == "image":
                loaded = [load_image(next(paths), self.image_folder, self.max_pixels)]
            else:
                loaded = load_frames(record.video, self.video_folder, self.sampling, record.extra, self.max_pixels)
            pictures += loaded
            grids.append((len(loaded), *self.processor.grid_hw))
        return pictures, grids

    def _set_aside(self, item: Quarantined) -> Quarantined:
        if self.quarantine is None:
            logger.warning("quarantined %s", item.reason)
        else:
            self.quarantine.add(item)
        return item
