"""`CambrianGazeProcessor`: chat messages and pictures to the tensors that the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from cambrian_gaze.data.conversation import CHAT_TEMPLATE
from cambrian_gaze.data.encode import encode_conversation
from cambrian_gaze.data.expand import PlaceholderIds, expand_placeholders
from cambrian_gaze.data.images import preprocess_images
from cambrian_gaze.data.media import load_image, to_rgb
from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.source import known_source

Picture = Image.Image | str | Path


class CambrianGazeProcessor(ProcessorMixin):
    """Tokenizer and image processor, with the grid and |C| that the model expands a picture to.

    Args:
        image_processor: gives `size`, `image_mean` and `image_std`; pictures are padded to square with the mean.
        tokenizer: a Qwen tokenizer, or one with Qwen's special tokens.
        chat_template: default ChatML without a default system prompt; or templates by name, "default" among them.
        num_context_tokens: |C| of the model.
        grid: rows and columns of visual tokens after the projector.
        system_prompt: what is said before a conversation that has no system turn of its own; None or "": nothing.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | dict[str, str] | None = None,
        num_context_tokens: int = 4,
        grid: Sequence[int] = (24, 24),
        system_prompt: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.system_prompt = system_prompt
        self.num_context_tokens = num_context_tokens
        self.grid = list(grid)
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any):
        """As transformers', but a path that leads nowhere is said at once, and what lies near it."""
        source = pretrained_model_name_or_path
        return super().from_pretrained(None if source is None else known_source(source), *args, **kwargs)

    @classmethod
    def from_preset(cls, name: str, tokenizer: Any = None, **overrides: Any) -> CambrianGazeProcessor:
        """The processor of a preset. "tiny" ships its tokenizer; for the others it is given, or read from the hub's
        cache or the hub. `overrides` replace fields of the model's configuration."""
        from cambrian_gaze.models.presets import load_tokenizer

        config = CambrianGazeConfig.from_preset(name, **overrides)
        return cls.from_config(config, load_tokenizer(name) if tokenizer is None else tokenizer)

    @classmethod
    def from_config(cls, config: CambrianGazeConfig, tokenizer: Any) -> CambrianGazeProcessor:
        """The processor that belongs to a model configuration; SigLIP's mean and deviation of 0.5. The tokenizer's
        own chat template stays known as "language_model"."""
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        side = config.vision_config.image_size
        image_processor = SiglipImageProcessorPil(
            size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
        own = tokenizer.chat_template
        own = own.get("language_model", own.get("default")) if isinstance(own, dict) else own
        return cls(
            image_processor,
            tokenizer,
            chat_template={"default": CHAT_TEMPLATE, "language_model": own} if own else None,
            num_context_tokens=config.gaze_config.num_context_tokens,
            grid=config.grid,
        )

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of visual tokens of an image or frame, after the projector."""
        return self.grid[0], self.grid[1]

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "grid_thw"]

    def preprocess_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures of any size → float32 [n, 3, H, W]: padded to square with the mean colour, resized, normalised."""
        own = self.image_processor
        size = (own.size["height"], own.size["width"])
        return preprocess_images(images, size, own.image_mean, own.image_std)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        padding: bool | str = True,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Rendered prompts and pictures to model inputs.

        Args:
            images: pictures or paths in order of appearance over the batch, nested by row or not.
            text: prompts that hold one `<image>` or `<video>` (or Qwen's pad token) per picture or video.
            videos: each a list of frames, nested by row or not.

        Raises: ValueError where a row's placeholders and pictures disagree.
        """
        _refuse(kwargs)
        rows = [text] if isinstance(text, str) else list(text or [])
        if not rows:
            raise ValueError("give text: at least one prompt, with one <image> or <video> per picture or video")
        pictures = iter(_flat_images(images))
        films = iter(_flat_videos(videos))
        encoded, frames, grids = [], [], []
        placeholders = PlaceholderIds.from_tokenizer(self.tokenizer)
        for number, row in enumerate(rows):
            row = row.replace("<image>", self._token(placeholders.image)).replace(
                "<video>", self._token(placeholders.video)
            )
            ids = self.tokenizer.encode(row, add_special_tokens=False)
            mine = [next(films if i == placeholders.video else pictures, None) for i in ids if i in placeholders[:2]]
            if any(visual is None for visual in mine):
                raise ValueError(
                    f"text {number} has {len(mine)} <image> and <video> placeholders, more than were given"
                )
            row_frames, row_grids = self._frames(mine)
            frames += row_frames
            grids += row_grids
            expanded = expand_placeholders(ids, row_grids, placeholders, self.num_context_tokens)
            encoded.append((expanded.input_ids, expanded.mm_token_type_ids))
        left = sum(1 for _ in pictures) + sum(1 for _ in films)
        if left:
            raise ValueError(f"{left} images or videos were given that no <image> or <video> in the text stands for")
        return self._batch(encoded, frames, grids, padding, return_tensors)

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = True,
        return_tensors: str | None = "pt",
        padding: bool | str = True,
        **kwargs: Any,
    ) -> Any:
        """Messages to model inputs (`tokenize=True`) or to the rendered prompt.

        Pictures stand in the messages: {"type": "image", "image": PIL image or path}, several in one message, and
        {"type": "video", "video": [frames]}. What users wrote never becomes a special token.
        `chat_template` is a template or the name of one; "language_model" is that of the model's language model.
        Where a conversation begins without a system turn, `system_prompt` is its system turn.
        """
        batched = bool(conversation) and isinstance(conversation[0], list | tuple)
        conversation = [self.with_system(row) for row in conversation] if batched else self.with_system(conversation)
        if chat_template is not None or not tokenize:
            rendered = self.tokenizer.apply_chat_template(
                conversation,
                chat_template=self._template(chat_template),
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **kwargs,
            )
            if not tokenize:
                return rendered
            messages = [m for row in (conversation if batched else [conversation]) for m in row]
            images, videos = _visuals(messages, "image"), _visuals(messages, "video")
            out = self(text=rendered, images=images, videos=videos, padding=padding, return_tensors=return_tensors)
            return out if return_dict else out["input_ids"]
        _refuse(kwargs)
        encoded, frames, grids = [], [], []
        for messages in conversation if batched else [conversation]:
            row_frames, row_grids = self._frames(_visuals(messages))
            row = encode_conversation(
                messages,
                self.tokenizer,
                row_grids,
                self.num_context_tokens,
                add_generation_prompt=add_generation_prompt,
            )
            encoded.append((row["input_ids"], row["mm_token_type_ids"]))
            frames += row_frames
            grids += row_grids
        out = self._batch(encoded, frames, grids, padding, return_tensors)
        return out if return_dict else out["input_ids"]

    def with_system(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages, with `system_prompt` before them where it says anything and they have no system turn."""
        if not self.system_prompt or not messages or messages[0].get("role") == "system":
            return list(messages)
        return [{"role": "system", "content": [{"type": "text", "text": self.system_prompt}]}, *messages]

    def _template(self, wanted: str | None) -> str:
        """A template by its name, or itself; None: the default."""
        known = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        return known.get(wanted or "default", wanted)

    def _token(self, token_id: int) -> str:
        return self.tokenizer.convert_ids_to_tokens(token_id)

    def _frames(self, visuals: Sequence[Any]) -> tuple[list[Image.Image], list[tuple[int, int, int]]]:
        """Pictures, and grids (T, h, w), of images and lists of frames."""
        frames, grids = [], []
        for visual in visuals:
            film = list(visual) if isinstance(visual, list | tuple) else [visual]
            if not film:
                raise ValueError("a video without frames was given")
            frames += [open_picture(picture) for picture in film]
            grids.append((len(film), *self.grid_hw))
        return frames, grids

    def _batch(
        self,
        encoded: list[tuple[list[int], list[int]]],
        frames: list[Image.Image],
        grids: list[tuple[int, int, int]],
        padding: bool | str,
        return_tensors: str | None,
    ) -> BatchFeature:
        if return_tensors not in ("pt", None):
            raise ValueError(f"return_tensors must be 'pt', got {return_tensors!r}")
        longest = max(len(ids) for ids, _ in encoded)
        if padding is False and any(len(ids) != longest for ids, _ in encoded):
            raise ValueError("the rows differ in length; pass padding=True")
        pad, left = self.tokenizer.pad_token_id, self.tokenizer.padding_side == "left"
        columns: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "mm_token_type_ids": []}
        for ids, types in encoded:
            gap = longest - len(ids)
            for name, values, fill in (
                ("input_ids", ids, pad),
                ("attention_mask", [1] * len(ids), 0),
                ("mm_token_type_ids", types, 0),
            ):
                columns[name].append([fill] * gap + values if left else values + [fill] * gap)
        data: dict[str, Tensor] = {name: torch.tensor(values) for name, values in columns.items()}
        if frames:
            data["pixel_values"] = self.preprocess_images(frames)
            data["grid_thw"] = torch.tensor(grids)
        return BatchFeature(data)


def open_picture(picture: Picture) -> Image.Image:
    """A picture or the file of one, as RGB."""
    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    path = Path(picture)
    return load_image(path.name, path.parent, flag="")


def _visuals(messages: Sequence[dict[str, Any]], kind: str | None = None) -> list[Any]:
    """What the image and video parts of messages hold, in order."""
    found = []
    for message in messages:
        for part in message["content"] if isinstance(message.get("content"), list | tuple) else ():
            if part.get("type") in ("image", "video") and kind in (None, part["type"]):
                visual = next((part[k] for k in (part["type"], "path", "url") if part.get(k) is not None), None)
                if visual is None:
                    raise ValueError(f"a content part of type {part['type']!r} holds no {part['type']!r}")
                found.append(visual)
    return found


def _flat_images(images: Any) -> list[Picture]:
    if images is None:
        return []
    if isinstance(images, Image.Image | str | Path):
        return [images]
    return [picture for entry in images for picture in _flat_images(entry)]


def _flat_videos(videos: Any) -> list[list[Picture]]:
    """A video is a list of frames; videos may be nested once more by row."""
    if not videos:
        return []
    if isinstance(videos[0], Image.Image | str | Path):
        return [list(videos)]
    return [film for entry in videos for film in _flat_videos(entry)]


def _refuse(kwargs: dict[str, Any]) -> None:
    unknown = {k: v for k, v in kwargs.items() if v is not None}
    if unknown:
        raise ValueError(f"options that this processor does not know: {', '.join(sorted(unknown))}")
