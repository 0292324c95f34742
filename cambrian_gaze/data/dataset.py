"""Records to samples, one at a time and on demand."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from cambrian_gaze.data.conversation import IMAGE_POSITIONS, check_image_position, messages_from_record
from cambrian_gaze.data.encode import (
    OVERLONG,
    OverlongError,
    TokenizedConversation,
    frames_that_fit,
    limit_length,
    tokenize_conversation,
)
from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.media.image_files import MAX_PIXELS, MachineError, MediaError, check_machine, load_image
from cambrian_gaze.data.media.video import FrameSampling, count_frames, load_frames
from cambrian_gaze.data.quarantine import Dropped, Quarantined, QuarantineLog
from cambrian_gaze.data.records.records import Record

logger = logging.getLogger(__name__)

Sample = dict[str, Any]


class SampleProcessor(Protocol):
    """What the dataset needs of a processor."""

    tokenizer: Any
    num_context_tokens: int
    grid_hw: tuple[int, int]
    """Height and width of a unit's grid after the projector."""
    image_aspect_ratio: str
    """See `data.aspect`."""

    def preprocess_images(self, images: list[Image.Image]) -> torch.Tensor:
        """RGB pictures → float32 [len(images), 3, H, W]."""


class Measure(NamedTuple):
    """What a sample weighs before any limit, known without decoding a picture."""

    length: int
    """Tokens, visual and context tokens included."""
    units: int
    """Images and frames."""
    frames: int
    """Frames of its video, 0 without one."""


@dataclass(frozen=True)
class SampleOptions:
    """How records become samples, whichever source they come from. Raises ValueError for an unknown policy."""

    sampling: FrameSampling = FrameSampling()
    """Which frames of a video are seen."""
    max_length: int | None = None
    """Most tokens of a sample; None: no limit."""
    overlong: str = "quarantine"
    """What becomes of longer ones, see `OVERLONG`."""
    on_error: str = "quarantine"
    """"quarantine" turns a record's errors into `Quarantined` items, "raise" raises them."""
    max_pixels: int = MAX_PIXELS
    """Pixels of the largest picture that is decoded."""
    image_position: str = IMAGE_POSITIONS[0]
    """Where pictures stand in a turn, see `conversation`."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("overlong", self.overlong, OVERLONG),
            ("on_error", self.on_error, ("quarantine", "raise")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; use one of {', '.join(known)}")
        check_image_position(self.image_position)


class ConversationDataset(Dataset):
    """Map-style: item i is record i as tensors, or a `Quarantined` that says why there is none.

    A sample: `id`, `source` and `file` (str), `row` (int), `input_ids`, `labels`, `mm_token_type_ids` (int64 [S]) and,
    unless it is text only, `pixel_values` (float32 [units, 3, H, W]: images and frames in order of appearance) and
    `grid_thw` (int64 [items, 3]: one row per image or video) and `picture_sizes` (int64 [units, 2]: width and height
    before that, for pictures of the sample). One that was longer than the limit carries `overlong`,
    what was done.
    """

    def __init__(
        self,
        records: Sequence[Record],
        processor: SampleProcessor,
        image_folder: str | os.PathLike[str] | None = None,
        video_folder: str | os.PathLike[str] | None = None,
        *,
        options: SampleOptions | None = None,
        quarantine: QuarantineLog | None = None,
        source: str = "",
        expects_missing: bool = False,
    ):
        """`video_folder` is `image_folder` unless given. `quarantine`: log of the samples that could not be used.
        `source`: its name in the log. `expects_missing`: the source declares that media are missing
        (`Quarantined.declared`)."""
        self.options = options or SampleOptions()
        self.expects_missing = expects_missing
        self.records = records
        self.processor = processor
        self.image_folder = image_folder
        self.video_folder = image_folder if video_folder is None else video_folder
        self.quarantine = quarantine
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
            if self.options.on_error == "raise":
                raise
            kind = Dropped if isinstance(error, OverlongError) and self.options.overlong == "drop" else Quarantined
            return self._set_aside(self._lost(kind, error, identity))

    def record(self, index: int) -> Record:
        """What item `index` is made of. Raises RecordError."""
        return self.records[index]

    def measure(self, index: int) -> Measure:
        """Tokens and pictures of record `index`. Raises RecordError where it has no placeholders or video to count."""
        record = self.records[index]
        with _placed(record):
            return self._measure(record, self._tokenized(record))

    def fault(self, index: int) -> Quarantined:
        """Why record `index` is no sample, as far as that shows without its pictures."""
        identity = ""
        try:
            record = self.record(index)
            identity = record.id
            length, _, frames = self.measure(index)
            reason = f"its {length} tokens, in {frames} frames of video, exceed max_length {self.options.max_length}"
            raise OverlongError(reason, "raise max_length, or shorten it", record.file, record.row)
        except RecordError as error:
            return self._lost(Quarantined, error, identity)

    def _lost(self, quarantined: type[Quarantined], error: RecordError, identity: str) -> Quarantined:
        declared = self.expects_missing and error.kind == "missing"
        return quarantined(error.file or "", error.row or 0, identity, str(error), self.source, error.kind, declared)

    def _tokenized(self, record: Record) -> TokenizedConversation:
        return tokenize_conversation(
            messages_from_record(record, self.options.image_position), self.processor.tokenizer
        )

    def _encode(self, record: Record) -> Sample:
        with _placed(record):
            conversation = self._tokenized(record)
            sampling = self._sampling_that_fits(record, conversation)
            images, grids = self._load(record, conversation.visuals, sampling)
            whole = encoded = conversation.expand(grids, self.processor.num_context_tokens)
            if self.options.max_length is not None:
                encoded = limit_length(whole, self.options.max_length, self.options.overlong)
        sample: Sample = {key: torch.from_numpy(np.array(values, dtype=np.int64)) for key, values in encoded.items()}
        if images:
            sample["pixel_values"] = self.processor.preprocess_images(images)
            sample["grid_thw"] = torch.tensor(grids, dtype=torch.int64)
            sample["picture_sizes"] = torch.tensor([image.size for image in images])
        if encoded is not whole or sampling is not self.options.sampling:
            sample["overlong"] = self.options.overlong
        return sample | {"id": record.id, "source": self.source, "file": record.file, "row": record.row}

    def _measure(self, record: Record, conversation: TokenizedConversation) -> Measure:
        kinds = conversation.visuals
        frames = 0
        if "video" in kinds:
            frames = count_frames(record.video, self.video_folder, self.options.sampling, record.extra)
        grids = [(frames if kind == "video" else 1, *self.processor.grid_hw) for kind in kinds]
        length = conversation.count_tokens(grids, self.processor.num_context_tokens)
        return Measure(length, sum(grid[0] for grid in grids), frames)

    def _sampling_that_fits(self, record: Record, conversation: TokenizedConversation) -> FrameSampling:
        """The run's sampling, or with "fewer_frames" one that brings a video's sample down to `max_length`."""
        sampling, max_length = self.options.sampling, self.options.max_length
        if self.options.overlong != "fewer_frames" or max_length is None or record.video is None:
            return sampling
        length, _, frames = self._measure(record, conversation)
        if length <= max_length:
            return sampling
        height, width = self.processor.grid_hw
        kept = frames_that_fit(length, frames, height * width + self.processor.num_context_tokens, max_length)
        if not kept:
            reason = f"{length} tokens exceed max_length {max_length}, even with a single one of {frames} frames"
            raise OverlongError(reason, "raise max_length, or shorten the text")
        return replace(sampling, video_max_frames=kept)

    def _load(
        self, record: Record, kinds: Sequence[str], sampling: FrameSampling
    ) -> tuple[list[Image.Image], list[tuple[int, int, int]]]:
        """All pictures in order of appearance, and the grid of each image or video."""
        pictures: list[Image.Image] = []
        grids = []
        paths = iter(record.images)
        for kind in kinds:
            if kind == "image":
                loaded = [load_image(next(paths), self.image_folder, self.options.max_pixels)]
            else:
                loaded = load_frames(record.video, self.video_folder, sampling, record.extra, self.options.max_pixels)
            pictures += loaded
            grids.append((len(loaded), *self.processor.grid_hw))
        return pictures, grids

    def _set_aside(self, item: Quarantined) -> Quarantined:
        if isinstance(item, Dropped):
            return item
        if self.quarantine is None:
            logger.warning("quarantined %s", item.reason)
        else:
            self.quarantine.add(item)
        return item


@contextmanager
def _placed(record: Record) -> Iterator[None]:
    """Errors within name the record's file and row; those of reading its media become MediaErrors, but for those of
    the machine (MachineError), which stop a run."""
    try:
        yield
    except RecordError as error:
        raise error.at(record.file, record.row) from error.__cause__
    except MachineError:
        raise
    except OSError as error:
        check_machine(error, record.id)
        reason, remedy = f"its media cannot be read ({error})", "check the disk and the folder's permissions"
        raise MediaError(reason, remedy, record.file, record.row) from error
