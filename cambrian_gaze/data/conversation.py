"""Messages to ChatML: the template for inference, and the same text in segments for training.

A message is {"role": "system" | "user" | "assistant", "content": …}. Content that is a string may hold `<image>` and
`<video>` placeholders (not in assistant messages, whose text is taken as it is); content that is a list has parts
{"type": "text", "text": …}, {"type": "image"}, {"type": "video"}, whose texts are taken as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from cambrian_gaze.data.records import ROLES, Record, RecordError

IMAGE_TOKEN = "<|image_pad|>"
VIDEO_TOKEN = "<|video_pad|>"
CONTEXT_TOKEN = "<|vision_pad|>"
END_OF_TURN = "<|im_end|>"

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string and message.role == 'assistant' %}
        {{- message.content }}
    {%- elif message.content is string %}
        {{- message.content | replace('<image>', '<|image_pad|>') | replace('<video>', '<|video_pad|>') }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'text' %}
                {{- part.text }}
            {%- elif part.type == 'image' and message.role != 'assistant' %}
                {{- '<|image_pad|>' }}
            {%- elif part.type == 'video' and message.role != 'assistant' %}
                {{- '<|video_pad|>' }}
            {%- else %}
                {{- raise_exception('a content part of type ' + part.type + ' in a message of role ' + message.role) }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""Qwen's ChatML with one placeholder token per image or video; no default system prompt, no thinking block."""



class PlaceholderMismatch(RecordError):
    """A record whose text and lists of media disagree about their number."""


class EmptyAnswer(RecordError):
    """A record with an answer that says nothing."""


Message = Mapping[str, Any]
Visual = Literal["image", "video"]

_PLACEHOLDER = re.compile("<(image|video)>")


class Segment(NamedTuple):
    """A piece of the conversation that is tokenised by itself, once."""

    text: str
    kind: Literal["control", "text", "image", "video"]
    """Special tokens are recognised in `control` only; `image` and `video` are one placeholder token each."""
    supervised: bool = False


def render(messages: Sequence[Message], add_generation_prompt: bool = False) -> list[Segment]:
    """Segments whose texts, joined, are what CHAT_TEMPLATE renders. Supervised: assistant text and its `<|im_end|>`.

    Raises RecordError for an empty conversation, an unknown role and content that is malformed.
    """
    if not messages:
        raise RecordError("the conversation is empty (0 messages)", "add a user and an assistant message")
    segments = []
    for message in messages:
        role = message.get("role")
        if role not in ("system", "user", "assistant"):
            raise RecordError(f"a message has the role {role!r}", "use system, user or assistant")
        answer = role == "assistant"
        segments.append(Segment(f"<|im_start|>{role}\n", "control"))
        for kind, text in _parts(message):
            if kind != "text" and answer:
                raise RecordError(f"an assistant message holds a part of type {kind!r}", "move it to a user message")
            segments.append(Segment(text, kind, supervised=answer))
        segments += [Segment("<|im_end|>", "control", supervised=answer), Segment("\n", "control")]
    if add_generation_prompt:
        segments.append(Segment("<|im_start|>assistant\n", "control"))
    return segments


def visuals(messages: Sequence[Message]) -> list[Visual]:
    """The kind of each image and video, in the order in which they appear."""
    return [segment.kind for segment in render(messages) if segment.kind in ("image", "video")]


def messages_from_record(record: Record) -> list[dict[str, Any]]:
    """The record as messages for training, its roles and placeholders checked. Raises RecordError with file and row.

    Where a record with a video and no image has no `<video>`, `<image>` stands for the video (so do the data sets of
    LLaVA-Video and Cambrian-S).
    """
    turns = [(ROLES[turn["from"]], turn["value"]) for turn in record.conversations]
    _check_roles(record, [role for role, _ in turns])
    for number, (role, text) in enumerate(turns, 1):
        if role != "assistant":
            continue
        if found := _PLACEHOLDER.search(text):
            raise RecordError(
                f"turn {number} of {len(turns)}, an answer, holds the placeholder {found[0]}",
                "move it to the human turn; where it is meant as text, write it another way",
                record.file,
                record.row,
            )
        if not text.strip():
            reason = f"turn {number} of {len(turns)}, an answer, is empty"
            raise EmptyAnswer(reason, "write the answer, or delete the turn and its question", record.file, record.row)
    questions = " ".join(text for role, text in turns if role != "assistant")
    counts = {"image": questions.count("<image>"), "video": questions.count("<video>")}
    alias = record.video is not None and not record.images and not counts["video"]
    if alias:
        counts = {"image": 0, "video": counts["image"]}
    given = {"image": len(record.images), "video": int(record.video is not None)}
    if counts != given:
        raise PlaceholderMismatch(
            f"the text holds {counts['image']} <image> and {counts['video']} <video> placeholders, "
            f"the record lists {given['image']} images and {given['video']} videos",
            "write one placeholder per image or video into the human turns, or correct the lists",
            record.file,
            record.row,
        )
    messages = []
    for role, text in turns:
        parts = [("text", text)] if role == "assistant" else _split(text)
        parts = [("video" if kind == "image" and alias else kind, text) for kind, text in parts]
        content = [{"type": kind, "text": text} if kind == "text" else {"type": kind} for kind, text in parts]
        messages.append({"role": role, "content": content})
    return messages


def _check_roles(record: Record, roles: list[str]) -> None:
    turns = roles[1:] if roles[0] == "system" else roles
    wanted = ["user", "assistant"] * (len(turns) // 2)
    if turns and turns == wanted:
        return
    remedy = "write an optional system turn, then human and gpt by turns, ending with gpt"
    raise RecordError(f"the roles are out of order: {', '.join(roles)}", remedy, record.file, record.row)


def _parts(message: Message) -> Iterable[tuple[Any, str]]:
    """(kind, text) per part; neighbouring texts are joined, so that their division does not change the tokens."""
    content = message.get("content")
    if isinstance(content, str):
        return [("text", content)] if message["role"] == "assistant" else _split(content)
    if not isinstance(content, Sequence):
        raise RecordError(f"a message has the content {content!r}", "give a string or a list of parts")
    parts: list[tuple[Any, str]] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "image", "video") or (kind == "text" and not isinstance(part.get("text"), str)):
            raise RecordError(f"a content part is {part!r}", 'use {"type": "text", "text": …}, "image" or "video"')
        text = {"text": part.get("text"), "image": IMAGE_TOKEN, "video": VIDEO_TOKEN}[kind]
        if kind == "text" and parts and parts[-1][0] == "text":
            text = parts.pop()[1] + text
        parts.append((kind, text))
    return parts


def _split(text: str) -> list[tuple[str, str]]:
    """Text with `<image>` and `<video>` → (kind, text) per piece, empty pieces left out."""
    pieces = _PLACEHOLDER.split(text)
    tokens = {"image": IMAGE_TOKEN, "video": VIDEO_TOKEN}
    parts = [("text", piece) if i % 2 == 0 else (piece, tokens[piece]) for i, piece in enumerate(pieces)]
    return [(kind, piece) for kind, piece in parts if piece]
