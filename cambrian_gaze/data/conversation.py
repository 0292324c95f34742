"""Messages to ChatML: the template for inference, and the same text in segments for training.

A message is {"role": "system" | "user" | "assistant", "content": …}. Content that is a string may hold `<image>` and
`<video>` placeholders (not in assistant messages, whose text is taken as it is); content that is a list has parts
{"type": "text", "text": …}, {"type": "image"}, {"type": "video"}, whose texts are taken as they are: `<image>` in them
is text.

Where pictures stand (`image_position`; a key of the message, by default "first"), the same for training and use, for
records, strings and parts. "first":

- The pictures and videos of a message come first, each followed by a line break, then its text without white space at
  its ends. Wherever they stood, if only white space stands between them: LLaVA and Cambrian train in this order, and
  their evaluations ask in it; a question before its picture could not route to it.
- Pictures with text between them keep their places, as the text speaks of each; where a picture would touch the next
  one or the text after it, a line break separates them.

"as_written" changes nothing: placeholders and parts stand where they are, no line break is added.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.records.forms import ROLES
from cambrian_gaze.data.records.records import Record

IMAGE_TOKEN = "<|image_pad|>"
VIDEO_TOKEN = "<|video_pad|>"
CONTEXT_TOKEN = "<|vision_pad|>"
END_OF_TURN = "<|im_end|>"

PLACEHOLDERS = {"image": IMAGE_TOKEN, "video": VIDEO_TOKEN}
"""Kind of a part → the one token that stands for it before expansion."""

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- set content = message.content %}
    {%- if content is string and message.role == 'assistant' %}
        {{- content }}
    {%- else %}
        {%- set ns = namespace(parts=content, written='', visuals='', before='', gap='', runs=0) %}
        {%- if content is string %}
            {%- set ns.parts = [] %}
            {%- for between in content.split('<image>') %}
                {%- if not loop.first %}{%- set ns.parts = ns.parts + [{'type': 'image'}] %}{%- endif %}
                {%- for text in between.split('<video>') %}
                    {%- if not loop.first %}{%- set ns.parts = ns.parts + [{'type': 'video'}] %}{%- endif %}
                    {%- set ns.parts = ns.parts + [{'type': 'text', 'text': text}] %}
                {%- endfor %}
            {%- endfor %}
        {%- endif %}
        {%- for part in (ns.parts | list) + [{'type': 'end'}] %}
            {%- if loop.last or (part.type in ['image', 'video'] and message.role != 'assistant') %}
                {%- set glued = (ns.gap[:1] | trim) and ns.gap[0] not in ',.;:!?)' if ns.gap else not loop.last %}
                {%- set break = '\\n' if glued and ns.runs and message.image_position != 'as_written' else '' %}
                {%- set ns.written = ns.written + break + ns.gap %}
                {%- if not loop.last %}
                    {%- if not ns.runs %}{%- set ns.before = ns.gap %}{%- endif %}
                    {%- if not ns.runs or (ns.gap | trim) %}{%- set ns.runs = ns.runs + 1 %}{%- endif %}
                    {%- set token = '<|' + part.type + '_pad|>' %}
                    {%- set ns.written = ns.written + token %}
                    {%- set ns.visuals = ns.visuals + token + '\\n' %}
                    {%- set ns.gap = '' %}
                {%- elif ns.runs == 1 and message.image_position != 'as_written' %}
                    {%- set seam = '\\n' if break and (ns.before[-1:] | trim) else '' %}
                    {%- set ns.written = (ns.visuals + ((ns.before + seam + ns.gap) | trim)) | trim %}
                {%- endif %}
            {%- elif part.type == 'text' %}
                {%- set ns.gap = ns.gap + part.text %}
            {%- else %}
                {{- raise_exception('a content part of type ' + part.type + ' in a message of role ' + message.role) }}
            {%- endif %}
        {%- endfor %}
        {{- ns.written }}
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

    kind = "placeholders"


class EmptyAnswer(RecordError):
    """A record with an answer that says nothing."""

    kind = "empty_answer"


Message = Mapping[str, Any]
Visual = Literal["image", "video"]

IMAGE_POSITIONS = ("first", "as_written")
"""Where the pictures of a message stand, as said above; the first is the default."""

PLACEHOLDER = re.compile("<(image|video)>")
"""What stands for a picture or video in texts of records."""


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
        position = message.get("image_position", IMAGE_POSITIONS[0])
        if position not in IMAGE_POSITIONS:
            raise RecordError(f"a message has the image_position {position!r}", f"use {' or '.join(IMAGE_POSITIONS)}")
        answer = role == "assistant"
        segments.append(Segment(f"<|im_start|>{role}\n", "control"))
        parts = _parts(message)
        for kind, text in _pictures_first(parts) if position == "first" else parts:
            if kind != "text" and answer:
                raise RecordError(f"an assistant message holds a part of type {kind!r}", "move it to a user message")
            segments.append(Segment(text, kind, supervised=answer))
        segments += [Segment("<|im_end|>", "control", supervised=answer), Segment("\n", "control")]
    if add_generation_prompt:
        segments.append(Segment("<|im_start|>assistant\n", "control"))
    return segments


def visuals(messages: Sequence[Message]) -> list[Visual]:
    """The kind of each image and video, in the order in which they appear."""
    return [segment.kind for segment in render(messages) if segment.kind in PLACEHOLDERS]


def check_image_position(value: str) -> None:
    """Raises ValueError for what is none of IMAGE_POSITIONS."""
    if value not in IMAGE_POSITIONS:
        raise ValueError(f"image_position={value!r} is unknown; use {' or '.join(IMAGE_POSITIONS)}")


def messages_from_record(record: Record, image_position: str = IMAGE_POSITIONS[0]) -> list[dict[str, Any]]:
    """The record as messages for training, its roles and placeholders checked. Raises RecordError with file and row.

    `image_position`: where `render` puts the pictures ("first" or "as_written"). With "first", a record that lists
    pictures or a video and has no placeholder at all gets one for each, in its first human turn.
    Where a record with a video and no image has no `<video>`, `<image>` stands for the video (so do the data sets of
    LLaVA-Video and Cambrian-S).
    """
    turns = [(ROLES[turn["from"]], turn["value"]) for turn in record.conversations]
    _check_roles(record, [role for role, _ in turns])
    for number, (role, text) in enumerate(turns, 1):
        if role != "assistant":
            continue
        if found := PLACEHOLDER.search(text):
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
    if image_position == "first" and not any(counts.values()) and any(given.values()) and not record.foreign_key:
        number = next(i for i, (role, _) in enumerate(turns) if role == "user")
        turns[number] = ("user", "<image>" * given["image"] + "<video>" * given["video"] + "\n" + turns[number][1])
        counts, alias = given, False
    if counts != given:
        raise PlaceholderMismatch(
            f"the text holds {counts['image']} <image> and {counts['video']} <video> placeholders, "
            f"the record lists {given['image']} images and {given['video']} videos"
            + (f' under "{record.foreign_key}"' if record.foreign_key else ""),
            "write one placeholder per image or video into the human turns, or correct the lists"
            + (' (without any placeholder, those under "image" and "video" stand first)' if record.foreign_key else ""),
            record.file,
            record.row,
        )
    messages = []
    for role, text in turns:
        parts = [("text", text)] if role == "assistant" else _split(text)
        parts = [("video" if kind == "image" and alias else kind, text) for kind, text in parts]
        content = [{"type": kind, "text": text} if kind == "text" else {"type": kind} for kind, text in parts]
        message = {"role": role, "content": content}
        messages.append(message if image_position == "first" else {**message, "image_position": image_position})
    return messages


def _check_roles(record: Record, roles: list[str]) -> None:
    turns = roles[1:] if roles[0] == "system" else roles
    wanted = ["user", "assistant"] * (len(turns) // 2)
    if turns and turns == wanted:
        return
    remedy = "write an optional system turn, then human and gpt by turns, ending with gpt"
    raise RecordError(f"the roles are out of order: {', '.join(roles)}", remedy, record.file, record.row)


def _parts(message: Message) -> list[tuple[Any, str]]:
    """(kind, text) per part; neighbouring texts are joined, so that their division does not change the tokens, and
    empty ones left out."""
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
        text = part.get("text") if kind == "text" else PLACEHOLDERS[kind]
        if not text:
            continue
        if kind == "text" and parts and parts[-1][0] == "text":
            text = parts.pop()[1] + text
        parts.append((kind, text))
    return parts


def _pictures_first(parts: Sequence[tuple[Any, str]]) -> list[tuple[Any, str]]:
    """The parts of one message under `image_position: first`."""
    visuals = [i for i, (kind, _) in enumerate(parts) if kind != "text"]
    if not visuals:
        return list(parts)
    first, last = visuals[0], visuals[-1]
    if all(kind != "text" or not text.strip() for kind, text in parts[first:last]):
        before = "".join(text for _, text in parts[:first])
        after = "".join(text for _, text in parts[last + 1 :])
        seam = "\n" if _touches(after) and before[-1:].strip() else ""
        text = (before + seam + after).strip()
        lines = [piece for i in visuals for piece in (("text", "\n"), parts[i])][1:]
        return [*lines, ("text", "\n" + text)] if text else lines
    placed: list[tuple[Any, str]] = []
    for kind, text in parts:
        after_visual = bool(placed) and placed[-1][0] != "text"
        if kind == "text":
            text = "\n" + text if after_visual and _touches(text) else text
        elif after_visual:
            placed.append(("text", "\n"))
        placed.append((kind, text))
    return placed


def _touches(text: str) -> bool:
    """Whether text after a picture begins a new sentence or word at once, neither with white space nor with the
    punctuation that ends the words before it."""
    return bool(text[:1].strip()) and text[0] not in ",.;:!?)"


def _split(text: str) -> list[tuple[str, str]]:
    """Text with `<image>` and `<video>` → (kind, text) per piece, empty pieces left out."""
    pieces = PLACEHOLDER.split(text)
    parts = [("text", piece) if i % 2 == 0 else (piece, PLACEHOLDERS[piece]) for i, piece in enumerate(pieces)]
    return [(kind, piece) for kind, piece in parts if piece]
