"""Settings of a run: where its samples lie, and how they are read. `arguments.py` has the other fields."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class DataArguments:
    """Where the samples come from, and what becomes of those that cannot be read."""

    data_path: list[str] | None = None
    """Recipes (YAML, see data_recipes/README.md) and JSON, JSONL or Parquet files in LLaVA's form."""

    eval_data_path: list[str] | None = None
    """As `data_path`, for the loss that `eval_strategy` asks for."""

    image_folder: str = "."
    """Folder that the records' image paths are relative to, where a recipe names none. No path may leave it."""

    video_folder: str | None = None
    """Folder that the records' video paths are relative to; by default `image_folder`."""

    image_position: Literal["first", "as_written"] = "first"
    """Where the pictures of a turn stand: before its text, a line break after each, as LLaVA and Cambrian train; or
    where the record has them. With `first`, a picture without an `<image>` gets one."""

    video_fps: float = 1.0
    """Frames per second that are taken of a video."""

    video_max_frames: int = 64
    """Most frames taken of a video; longer ones are sampled uniformly."""

    video_force_sample: bool = False
    """Always take `video_max_frames` frames, uniformly."""

    video_backend: Literal["auto", "decord", "pyav"] = "auto"
    """Decoder of video files. `auto`: decord where its tables are exact for the file, elsewhere PyAV, which is counted
    and logged. One that is named decodes, or says why it cannot."""

    video_timeout: float = 120.0
    """Seconds that a video file may take, in a process of its own; 0 decodes in the worker, without a limit."""

    max_length: int = 2048
    """Most tokens of a sample, or of a row of packed samples, visual and context tokens included."""

    overlong: Literal["quarantine", "truncate_text", "drop", "fewer_frames"] = "quarantine"
    """What becomes of a longer sample: left out and logged, its text cut at the end, left out and counted, or its video
    sampled again with the most frames that fit. Images are never cut."""

    packing: bool = False
    """Put several samples into each row of a batch, up to `max_length` tokens, without attention between them;
    `per_device_train_batch_size` then counts rows. Tokens are counted once and kept beside the data."""

    exclude: list[str] | None = None
    """JSONL lists of records to leave out from the start, as `cambrian-gaze data check` and training write them."""

    max_pixels: int = 89_478_485
    """Larger images are refused as decompression bombs."""

    max_quarantined_share: float = 0.1
    """The run stops once more than this share of the samples seen was quarantined. What a recipe declares as missing,
    and samples that are too long, do not count."""

    quarantine_log: str | None = None
    """JSONL of quarantined samples; by default `quarantine.jsonl` in `output_dir`."""

    def __post_init__(self) -> None:
        for name in ("max_length", "max_pixels"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.max_quarantined_share >= 0:
            raise ValueError(f"max_quarantined_share must not be negative, got {self.max_quarantined_share}")
