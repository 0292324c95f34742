"""`CambrianGazeProcessor`: chat messages and pictures to the tensors that the model takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from cambrian_gaze.data.conversation import CHAT_TEMPLATE, IMAGE_TOKEN, VIDEO_TOKEN
from cambrian_gaze.data.expand import PlaceholderIds, expand_placeholders
from cambrian_gaze.data.media.aspect import check_aspect, preprocess_images
from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.folders.opening import opening
from cambrian_gaze.models.folders.processor_check import check_processor
from cambrian_gaze.models.processing.messages import conversations_of, render_chat, visuals_of
from cambrian_gaze.models.processing.options import ProcessorOptions, check_loading
from cambrian_gaze.models.processing.pictures import (
    Picture,
    flat,
    nested,
    nested_videos,
    open_picture,
    open_video,
    share,
)
from cambrian_gaze.models.processing.prompts import PromptIds, prompt_ids
from cambrian_gaze.models.processing.rows import cut_row, pad_rows
from cambrian_gaze.models.processing.templates import check_template, chosen_template, render_foreign
from cambrian_gaze.models.tower.family import Statistics

__all__ = ["CambrianGazeProcessor", "Picture", "open_picture"]


class CambrianGazeProcessor(ProcessorMixin):
    """Tokenizer and image processor, with the grid and |C| that the model expands a picture to.

    Args:
        image_processor: gives `size`, `image_mean` and `image_std`; the rest is `image_aspect_ratio`'s.
        tokenizer: a Qwen tokenizer, or one with Qwen's special tokens.
        chat_template: default ChatML without a default system prompt; or templates by name, "default" among them.
        num_context_tokens: |C| of the model.
        grid: rows and columns of visual tokens after the projector.
        system_prompt: what is said before a conversation that has no system turn of its own; None or "": nothing.
        image_aspect_ratio: "pad", pictures padded to a square with the mean colour, as processors do that were saved
            without this field; or "square", stretched, as processors of new models do (`from_config`).
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | dict[str, str] | None = None,
        num_context_tokens: int = 4,
        grid: Sequence[int] = (24, 24),
        system_prompt: str | None = None,
        image_aspect_ratio: str = "pad",
        **kwargs: Any,
    ) -> None:
        self.system_prompt = system_prompt
        self.image_aspect_ratio = check_aspect(image_aspect_ratio)
        self.num_context_tokens = num_context_tokens
        self.grid = list(grid)
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any):
        """As transformers', but a path that leads nowhere is said at once, and what lies near it; padding is on the
        left, whatever was saved, unless `padding_side` is given.

        Raises: FolderError, a ValueError, for files that are broken or foreign; ValueError for options without effect.
        """
        source = pretrained_model_name_or_path
        if source is None:
            return super().from_pretrained(None, *args, **kwargs)
        with opening(source) as folder:
            loaded = super().from_pretrained(folder, *args, **kwargs)
            own = loaded[0] if isinstance(loaded, tuple) else loaded
            check_processor(own)
        own.tokenizer.padding_side = check_loading(own, kwargs)
        return loaded

    @classmethod
    def from_preset(
        cls, name: str, tokenizer: Any = None, image_aspect_ratio: str = "square", **overrides: Any
    ) -> CambrianGazeProcessor:
        """The processor of a preset. "tiny" ships its tokenizer; for the others it is given, or read from the hub's
        cache or the hub. `overrides` replace fields of the model's configuration."""
        from cambrian_gaze.models.presets import load_tokenizer

        config = CambrianGazeConfig.from_preset(name, **overrides)
        tokenizer = load_tokenizer(name) if tokenizer is None else tokenizer
        return cls.from_config(config, tokenizer, image_aspect_ratio)

    @classmethod
    def from_config(
        cls,
        config: CambrianGazeConfig,
        tokenizer: Any,
        image_aspect_ratio: str = "square",
        statistics: Statistics | None = None,
    ) -> CambrianGazeProcessor:
        """The processor of a new model of this configuration. The tokenizer's own chat template stays known as
        "language_model".

        Args:
            statistics: mean and standard deviation of the channels; None: those of the tower's family.
        """
        image_processor = config.tower_family.make_image_processor(config.vision_config, statistics)
        own = tokenizer.chat_template
        own = own.get("language_model", own.get("default")) if isinstance(own, dict) else own
        return cls(
            image_processor,
            tokenizer,
            chat_template={"default": CHAT_TEMPLATE, "language_model": own} if own else None,
            num_context_tokens=config.gaze_config.num_context_tokens,
            grid=config.grid,
            image_aspect_ratio=image_aspect_ratio,
        )

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of visual tokens of an image or frame, after the projector."""
        return self.grid[0], self.grid[1]

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "grid_thw"]

    def preprocess_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures of any size → float32 [n, 3, H, W]: made square (`image_aspect_ratio`), resized, normalised."""
        own = self.image_processor
        size = (own.size["height"], own.size["width"])
        return preprocess_images(images, size, own.image_mean, own.image_std, self.image_aspect_ratio)

    @property
    def image_token(self) -> str:
        """What stands for a picture in a rendered prompt, and for each of its visual tokens in the ids."""
        return IMAGE_TOKEN

    @property
    def video_token(self) -> str:
        """What stands for a video in a rendered prompt, and for each of its visual tokens in the ids."""
        return VIDEO_TOKEN

    @property
    def image_token_id(self) -> int:
        return PlaceholderIds.from_tokenizer(self.tokenizer).image

    @property
    def video_token_id(self) -> int:
        return PlaceholderIds.from_tokenizer(self.tokenizer).video

    def __call__(
        self, images: Any = None, text: str | Sequence[str] | None = None, videos: Any = None, **options: Any
    ) -> BatchFeature:
        """Rendered prompts and pictures to model inputs.

        Args:
            images: pictures in any of the forms of `pictures.Picture`, in order of appearance over the batch, or one
                list per row.
            text: prompts that hold one `<|image_pad|>` or `<|video_pad|>` per picture or video. Where no row has one,
                `<image>` and `<video>` stand for them; otherwise, and in chats without any picture, they are text.
            videos: each a list of frames, an array of frames, or the path of a video file or folder of frames; flat or
                one list per row.
            options: fields of `ProcessorOptions`.

        Raises: ValueError where a row's placeholders and pictures disagree, and for an option that is not known.
        """
        known = ProcessorOptions.of(self.tokenizer, options)
        prompts = [text] if isinstance(text, str) else list(text or [])
        if not prompts:
            raise ValueError("give text: at least one prompt, with one <image> or <video> per picture or video")
        placeholders = PlaceholderIds.from_tokenizer(self.tokenizer)
        images, videos = nested(images), nested_videos(videos)
        rows = prompt_ids(prompts, self.tokenizer, bool(images or videos))
        shares = {
            "image": share(images, [row.count(placeholders.image) for row, _ in rows], "image"),
            "video": share(videos, [row.count(placeholders.video) for row, _ in rows], "video"),
        }
        visuals = []
        for number, (row, _) in enumerate(rows):
            mine = {kind: iter(given[number]) for kind, given in shares.items()}
            kinds = ["image" if i == placeholders.image else "video" for i in row if i in placeholders[:2]]
            visuals.append([(kind, next(mine[kind])) for kind in kinds])
        return self._encode(rows, visuals, known)

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """Messages to model inputs (`tokenize=True`) or to the rendered prompt, which this processor takes as `text`.

        Both ways give the same ids. Pictures stand in the messages, {"type": "image", "image": …} or OpenAI's
        {"type": "image_url", "image_url": {"url": …}}, and {"type": "video", "video": frames or path}; or the parts are
        empty, and `images` and `videos` hold them in order. What users wrote never becomes a special token. Where a
        conversation begins without a system turn, `system_prompt` is its system turn.

        Args:
            chat_template: a template or the name of one; "language_model" is that of the model's language model.
            options: fields of `ProcessorOptions`; `return_assistant_tokens_mask`, to mark what assistants said, their
                end token included, as `assistant_masks`; for other templates than ours, their variables.

        Raises: ValueError for messages that cannot be rendered, and for an option that is not known.
        """
        conversations, several = conversations_of(conversation)
        conversations = [self.with_system(row) for row in conversations]
        options |= options.pop("processor_kwargs", None) or {}
        for name in ("tools", "documents", "load_audio_from_video"):
            if options.pop(name, None):
                raise ValueError(f"{name}: this model has none of that")
        options.pop("sanitize_control_tokens", None)  # always done
        marks = options.pop("return_assistant_tokens_mask", None) or False
        images, videos = nested(options.pop("images", None)), nested_videos(options.pop("videos", None))
        template = chosen_template(self.chat_template, chat_template)
        own = template == CHAT_TEMPLATE
        if own:
            rendered = [render_chat(row, add_generation_prompt, continue_final_message) for row in conversations]
        else:
            if marks:
                raise ValueError("return_assistant_tokens_mask needs this processor's own chat template")
            known = {field.name for field in dataclasses.fields(ProcessorOptions)}
            variables = {name: options.pop(name) for name in list(options) if name not in known}
            variables |= {
                "add_generation_prompt": add_generation_prompt,
                "continue_final_message": continue_final_message,
            }
            rendered = [render_foreign(self.tokenizer, row, template, variables) for row in conversations]
        known = ProcessorOptions.of(self.tokenizer, options)
        if not tokenize:
            return rendered if several else rendered[0]
        given = iter(flat(images)), iter(flat(videos))
        visuals = [visuals_of(row, *given) for row in conversations]
        if left := sum(1 for rest in given for _ in rest):
            raise ValueError(f"{left} images or videos were given that no part of the messages stands for")
        out = self._encode(prompt_ids(rendered, self.tokenizer, True), visuals, known, marks)
        return out if return_dict else out["input_ids"]

    def check_template(self) -> None:
        """Raises: ValueError where the default chat template is broken, or takes too much for three short turns."""
        check_template(self.tokenizer, chosen_template(self.chat_template, None))

    def with_system(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages, with `system_prompt` before them where it says anything and they have no system turn."""
        if not self.system_prompt or not messages or messages[0].get("role") == "system":
            return list(messages)
        return [{"role": "system", "content": [{"type": "text", "text": self.system_prompt}]}, *messages]

    def _encode(
        self,
        rows: list[PromptIds],
        visuals: list[list[tuple[str, Any]]],
        options: ProcessorOptions,
        marks: bool = False,
    ) -> BatchFeature:
        """Ids with placeholders and ("image" or "video", what it is) per placeholder to model inputs."""
        placeholders = PlaceholderIds.from_tokenizer(self.tokenizer)
        columns: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "mm_token_type_ids": []}
        columns |= {"assistant_masks": []} if marks else {}
        frames, grids = [], []
        for number, ((ids, said), mine) in enumerate(zip(rows, visuals, strict=True)):
            row_grids = []
            for kind, visual in mine:
                film = open_video(visual, options.sampling) if kind == "video" else [open_picture(visual)]
                frames += film
                row_grids.append((len(film), *self.grid_hw))
            grids += row_grids
            expanded = expand_placeholders(ids, row_grids, placeholders, self.num_context_tokens)
            row = {
                "input_ids": expanded.input_ids,
                "attention_mask": [1] * len(expanded.input_ids),
                "mm_token_type_ids": expanded.mm_token_type_ids,
                "assistant_masks": [int(said[i]) for i in expanded.source],
            }
            row = cut_row(row, number, self.tokenizer, options)
            for name, column in columns.items():
                column.append(row[name])
        pad_rows(columns, self.tokenizer, options)
        data: dict[str, Any] = dict(columns)
        if frames:
            data |= {"pixel_values": self.preprocess_images(frames), "grid_thw": [list(grid) for grid in grids]}
        if options.return_tensors is not None:
            data = {n: x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.int64) for n, x in data.items()}
        if options.return_tensors == "np":
            data = {name: values.numpy() for name, values in data.items()}
        return BatchFeature(data)
