"""What routing is judged on: `routing.jsonl`, one picture a line.

    {"id": "139", "image": "139.jpg", "prompt": "Describe the image.", "caption": "a cat on a chair",
     "phrases": [{"text": "a cat", "spans": [[0, 5]], "masks": [{"size": [480, 640], "counts": "…"}]}]}

`caption` is what the model is made to say; without it the model's own greedy caption is used. `spans` (characters of
the caption, ends exclusive) say where the phrase stands; without them, wherever its `text` stands. `masks` is a list
whose union is the phrase's place: run-length codes as COCO writes them, polygons [x, y, x, y, …] in pixels, or
{"panoptic": "139.png", "ids": [7, 9]}, segments of a COCO panoptic picture. `kind`, where given, is reported apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "routing.jsonl"
PROMPT = "Describe what is shown, in detail."
"""What is asked where a record does not say."""
_KEYS = {"id", "image", "prompt", "caption", "phrases"}
_PHRASE_KEYS = {"text", "spans", "masks", "kind"}


@dataclass(frozen=True)
class Phrase:
    """A phrase of a caption, and where it is in the picture."""

    text: str
    masks: tuple[Any, ...]
    spans: tuple[tuple[int, int], ...] | None = None
    """Characters of the caption; None: wherever the text stands."""
    kind: str = ""

    def places(self, caption: str) -> list[tuple[int, int]]:
        """Where it stands in a caption: its spans, or each occurrence of its text between word borders, any case."""
        if self.spans is not None:
            return list(self.spans)
        pattern = rf"(?<!\w){re.escape(self.text)}(?!\w)"
        return [match.span() for match in re.finditer(pattern, caption, re.IGNORECASE)]


@dataclass(frozen=True)
class RoutingRecord:
    """One picture."""

    id: str
    image: str
    phrases: tuple[Phrase, ...]
    caption: str | None = None
    prompt: str = PROMPT


def read_records(folder: str | Path) -> Iterator[RoutingRecord]:
    """The records of `folder/routing.jsonl`. Raises ValueError naming file, line and what is wrong."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing; docs/evaluation.md describes its lines")
    seen: dict[str, int] = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = _record(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            if record.id in seen:
                raise ValueError(f"{path}, line {number}: id {record.id!r} is that of line {seen[record.id]} too")
            seen[record.id] = number
            yield record


def _record(values: Any) -> RoutingRecord:
    _check(values, _KEYS, {"id", "image", "phrases"}, "a record")
    caption = values.get("caption")
    if not isinstance(values["image"], str) or not (caption is None or isinstance(caption, str) and caption):
        raise ValueError("image must be a path and caption a text")
    if not isinstance(values["phrases"], list):
        raise ValueError("phrases must be a list")
    phrases = tuple(_phrase(one, caption) for one in values["phrases"])
    return RoutingRecord(str(values["id"]), values["image"], phrases, caption, values.get("prompt", PROMPT))


def _phrase(values: Any, caption: str | None) -> Phrase:
    _check(values, _PHRASE_KEYS, {"text", "masks"}, "a phrase")
    if not isinstance(values["text"], str) or not values["text"] or not isinstance(values["masks"], list):
        raise ValueError("text must be a text and masks a list")
    spans = values.get("spans")
    if spans is not None:
        if caption is None:
            raise ValueError(f"phrase {values['text']!r} has spans, but the record has no caption that they count in")
        spans = tuple((int(start), int(end)) for start, end in spans)
        if any(not 0 <= start < end <= len(caption) for start, end in spans):
            length = len(caption)
            raise ValueError(f"spans {spans} of phrase {values['text']!r} leave the caption's {length} characters")
    return Phrase(values["text"], tuple(values["masks"]), spans, values.get("kind", ""))


def _check(values: Any, known: set[str], wanted: set[str], what: str) -> None:
    if not isinstance(values, Mapping) or not wanted <= set(values) <= known:
        raise ValueError(f"{what} holds {', '.join(sorted(wanted))} and may hold {', '.join(sorted(known - wanted))}")
