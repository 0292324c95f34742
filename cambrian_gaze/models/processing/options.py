"""What a call of the processor may be told, under the names that Hugging Face's processors use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from transformers import GenerationConfig

from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.models.processing.pictures import EVERY_FRAME

_GROUPS = ("common_kwargs", "text_kwargs", "images_kwargs", "videos_kwargs", "processor_kwargs")
"""Dicts of options that other processors sort by what they concern; here they are one."""

_WHAT_IS_DONE = {
    "return_attention_mask": True,
    "return_mm_token_type_ids": True,
    "return_token_type_ids": False,
    "return_offsets_mapping": False,
    "return_overflowing_tokens": False,
    "return_special_tokens_mask": False,
    "return_length": False,
    "is_split_into_words": False,
    "do_convert_rgb": True,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "return_metadata": False,
    "load_audio_from_video": False,
    "verbose": True,
    "enable_thinking": False,
}
"""Options that may be named, and their only value here."""

_FIXED_PIXELS = {
    "do_convert_rgb": True,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_center_crop": False,
    **dict.fromkeys(("min_pixels", "max_pixels", "crop_size", "resample", "rescale_factor", "do_pad", "pad_size")),
}
"""What image processors may be told about pixels when they are loaded, and has no effect here, with its only value."""


@dataclass(frozen=True)
class ProcessorOptions:
    """Padding, truncation and kind of tensors."""

    padding: bool | str = True
    """True and "longest": to the longest row; "max_length": to `max_length`; False and "do_not_pad": not at all."""
    truncation: bool | str = False
    """Cut text that is longer than `max_length` (of the tokenizer, where none is given)."""
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    padding_side: str | None = None
    """"left" or "right"; None: the tokenizer's."""
    return_tensors: str | None = "pt"
    """"pt", "np", or None for lists."""
    add_special_tokens: bool = False
    """For tokenizers that add none; the chat template writes all that there are."""
    num_frames: int | None = None
    """Of a video file or folder of frames, take this many, evenly."""
    fps: float | None = None
    """Of a video file or folder of frames, take this many per second."""
    do_sample_frames: bool | None = None
    """False: every frame of a video file or folder. Frames that are given as a list or an array are all taken."""

    def __post_init__(self) -> None:
        for name, known in (
            ("padding", (True, False, "longest", "max_length", "do_not_pad")),
            ("truncation", (True, False, "longest_first", "do_not_truncate")),
            ("padding_side", (None, "left", "right")),
            ("return_tensors", (None, "pt", "np")),
            ("do_sample_frames", (None, True, False)),
        ):
            value = getattr(self, name)
            if value not in known or value in (0, 1) and not isinstance(value, bool):
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
        for name in ("max_length", "pad_to_multiple_of", "num_frames"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.fps is not None and (
            isinstance(self.fps, bool) or not isinstance(self.fps, int | float) or not 0 < self.fps < float("inf")
        ):
            raise ValueError(f"fps must be a number above 0, frames taken per second of a video, got {self.fps!r}")
        if self.num_frames is not None and self.fps is not None:
            raise ValueError("num_frames and fps exclude each other")
        if self.do_sample_frames is False and (self.num_frames or self.fps):
            raise ValueError("do_sample_frames=False takes every frame: leave it out, or num_frames and fps")

    @classmethod
    def of(cls, tokenizer: Any, given: Mapping[str, Any]) -> ProcessorOptions:
        """The options of keyword arguments; None stands for the default, but `return_tensors=None` for lists.

        Raises: ValueError that names all options that are unknown or cannot be had.
        """
        options = {name: value for name, value in given.items() if name not in _GROUPS}
        for group in _GROUPS:
            for name, value in (given.get(group) or {}).items():
                if options.get(name, value) is not value and options[name] != value:
                    raise ValueError(f"{name} is given twice: {options[name]!r}, and {value!r} in {group}")
                options[name] = value
        if (tensors := options.get("return_tensors", "auto")) == "auto":
            options.pop("return_tensors", None)
        options = {name: value for name, value in options.items() if value is not None or name == "return_tensors"}
        if "return_tensors" in options and tensors is not None:
            options["return_tensors"] = getattr(tensors, "value", tensors)
        options["padding"] = getattr(options.get("padding", True), "value", options.get("padding", True))
        for name, value in _WHAT_IS_DONE.items():
            if options.get(name) == value:
                del options[name]
        if unknown := sorted(options.keys() - {field.name for field in fields(cls)}):
            wrong = [f"{name}={options[name]!r}" if name in _WHAT_IS_DONE else name for name in unknown]
            told = f"options that this processor does not know or cannot follow: {', '.join(wrong)}"
            if set(unknown) & (GenerationConfig().to_dict().keys() | {"gaze", "policy", "return_gaze"}):
                told += ". Options of an answer go to generate; of a pipeline, to its generate_kwargs={…}"
            raise ValueError(told)
        if options.get("add_special_tokens") and tokenizer.num_special_tokens_to_add():
            raise ValueError(
                "add_special_tokens=True: this processor adds none, the chat template writes all that there are"
            )
        made = cls(**options)
        if made.needs_length and made.max_length is None and tokenizer.model_max_length > 10**9:
            raise ValueError("the tokenizer states no length (model_max_length); give max_length")
        return made

    @property
    def cuts(self) -> bool:
        return self.truncation not in (False, "do_not_truncate")

    @property
    def needs_length(self) -> bool:
        return self.cuts or self.padding == "max_length"

    @property
    def pads(self) -> bool:
        return self.padding not in (False, "do_not_pad")

    @property
    def sampling(self) -> FrameSampling | None:
        """How frames are taken from video files and folders; None: nothing was said."""
        if self.num_frames is not None:
            return FrameSampling(video_max_frames=self.num_frames, video_force_sample=True)
        if self.do_sample_frames is False:
            return EVERY_FRAME
        return None if self.fps is None else FrameSampling(video_fps=self.fps)


def check_loading(processor: Any, given: Mapping[str, Any]) -> str:
    """The padding side that a processor was loaded for with the keyword arguments `given` of `from_pretrained`.

    Raises: ValueError for a padding side that is none, and for options of pixels that would have no effect.
    """
    wrong = [f"{n}={given[n]!r}" for n, done in _FIXED_PIXELS.items() if given.get(n) is not None and given[n] != done]
    if wrong:
        size = processor.image_processor.size
        raise ValueError(
            f"{', '.join(wrong)}: every picture gets {size['height']}x{size['width']} pixels, which the model was made "
            "for. Leave it out; fewer visual tokens are attended with generate(…, gaze={'top_k': 2})"
        )
    side = ProcessorOptions(padding_side=given.get("padding_side")).padding_side
    return side or processor.tokenizer.padding_side
