"""The turns of a chat about pictures and videos, and what the reader lets the model look at."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cambrian_gaze.data.media.image_files import MediaError, load_image
from cambrian_gaze.data.media.video import load_frames
from cambrian_gaze.demo.limits import Limits
from cambrian_gaze.viz.trace_record import check_pictures

VIDEOS = frozenset({".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v", ".gif"})
"""Suffixes of files that are taken for videos."""
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
"""Suffixes of files that are taken for pictures."""


@dataclass(frozen=True)
class Steering:
    """The budget of an answer, and the regions that its text may look at."""

    top_k: int | None = None
    """Regions per query, head and layer; None: as the checkpoint has it."""

    hidden: frozenset[int] = frozenset()
    """Regions that text queries cannot see."""

    forced: frozenset[int] = frozenset()
    """If any: the only regions that they can see."""

    def within(self, regions: int) -> Steering:
        """The same, without regions that there are not."""
        some = range(regions)
        return Steering(self.top_k, self.hidden & set(some), self.forced & set(some))

    def denied(self, regions: int) -> Tensor | None:
        """`hidden_regions` of the model, bool [1, regions]; None where all may be seen. Raises ValueError where none
        would be left."""
        denied = [r in self.hidden or bool(self.forced) and r not in self.forced for r in range(regions)]
        if not any(denied):
            return None
        if all(denied):
            raise ValueError("every region is hidden; leave the model at least one")
        return torch.tensor([denied])

    def gaze(self, regions: int) -> dict[str, Any]:
        """Run-time options of the gaze. Where regions are denied every layer must choose, so that a dense model gets a
        budget that holds all of them."""
        if self.top_k is None:
            return {}
        return {"top_k": max(1, min(self.top_k, regions) if regions else self.top_k)}


@dataclass
class Conversation:
    """Questions, answers and pictures so far."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    """As the processor takes them, pictures decoded."""

    visuals: list[Image.Image | list[Image.Image]] = field(default_factory=list)
    """Images, and videos as lists of frames, in order."""

    sources: list[str] = field(default_factory=list)
    """The name of each file."""

    @property
    def question(self) -> str:
        """The last one."""
        asked = [message for message in self.messages if message["role"] == "user"]
        return "" if not asked else next(part["text"] for part in asked[-1]["content"] if part["type"] == "text")

    def look_at(self, path: str | os.PathLike, limits: Limits) -> None:
        """Add a picture or a video, which belongs to the next question. Raises ValueError in one line."""
        path = Path(path)
        if len(self.visuals) >= limits.max_visuals:
            raise ValueError(f"a conversation holds {limits.max_visuals} pictures and videos; begin a new one")
        suffix = path.suffix.lower()
        if suffix not in VIDEOS | PICTURES:
            raise ValueError(f"{path.name} is no picture or video that is known by its name ({suffix or 'no suffix'})")
        if path.stat().st_size > limits.max_file:
            raise ValueError(f"{path.name} has more than {limits.max_file >> 20} MiB")
        try:
            if suffix in VIDEOS:
                seen: Any = load_frames(path.name, path.parent, limits.frames, max_pixels=limits.max_pixels // 8)
                check_pictures([seen])
            else:
                seen = load_image(path.name, path.parent, limits.max_pixels)
        except MediaError as error:
            raise ValueError(error.reason.replace(str(path), path.name)) from error
        self.visuals.append(seen)
        self.sources.append(path.name)

    def ask(self, text: str, limits: Limits) -> None:
        """Add a question about what was shown since the last one. Raises ValueError where there are too many, or it is
        too long or empty."""
        if not text.strip():
            raise ValueError("write a question")
        if len(text) > limits.max_text:
            raise ValueError(f"a question has {limits.max_text} characters at most")
        if sum(message["role"] == "user" for message in self.messages) >= limits.max_turns:
            raise ValueError(f"a conversation has {limits.max_turns} questions at most; begin a new one")
        shown = sum(part["type"] != "text" for message in self.messages for part in message["content"])
        parts = []
        for seen in self.visuals[shown:]:
            kind = "video" if isinstance(seen, list) else "image"
            parts.append({"type": kind, kind: seen})
        self.messages.append({"role": "user", "content": [*parts, {"type": "text", "text": text}]})

    def answered(self, text: str) -> None:
        """The last question's answer."""
        self.messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})

    def reopen(self) -> bool:
        """Forget the last answer, so that its question is answered again; whether there is a question."""
        if self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        return bool(self.messages)

    def withdraw(self) -> None:
        """Forget the last question, which could not be answered; its pictures belong to the next one."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages.pop()
