"""Chat messages as Hugging Face's and OpenAI's clients write them, in the form that `data.conversation` renders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cambrian_gaze.data.conversation import PLACEHOLDER, Segment, render
from cambrian_gaze.models.processing.pictures import short

_VISUAL = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}
_SOURCES = ("path", "url", "base64")
"""Keys of a part, beside its own type, under which a picture or video stands."""
_MEDIA = (*_VISUAL, "images", "videos", "audio", "audios")
"""Keys under which pictures and others are looked for elsewhere: in messages and text parts nothing reads them."""


class RenderedChat(str):
    """A rendered chat that knows what in it is control, text and placeholder: user text stays text when it is encoded.

    It behaves like any other string. What is made of it by slicing or joining is one, and has forgotten.
    """

    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> RenderedChat:
        chat = cls("".join(segment.text for segment in segments))
        chat.segments = tuple(segments)
        return chat


def conversations_of(conversation: Any) -> tuple[list[list[dict[str, Any]]], bool]:
    """One conversation or several, as lists of messages; and whether it was several.

    Raises: ValueError for what is no conversation.
    """
    given = getattr(conversation, "messages", conversation)  # the pipelines' Chat
    if not isinstance(given, Sequence) or isinstance(given, str | bytes) or not given:
        raise ValueError(f"a conversation must be a list of messages, got {short(conversation)}")
    several = isinstance(given[0], list | tuple) or hasattr(given[0], "messages")
    rows = [getattr(row, "messages", row) for row in (given if several else [given])]
    return [[_message(message) for message in row] for row in rows], several


def render_chat(
    messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, continue_final_message: bool = False
) -> RenderedChat:
    """Segments and text of a conversation; with `continue_final_message` its last message stays open."""
    if add_generation_prompt and continue_final_message:
        raise ValueError("add_generation_prompt and continue_final_message exclude each other")
    segments = render(messages, add_generation_prompt)
    return RenderedChat.of(segments[:-2] if continue_final_message else segments)


def visuals_of(
    messages: Sequence[Mapping[str, Any]], images: Iterator[Any], videos: Iterator[Any]
) -> list[tuple[str, Any]]:
    """("image" or "video", what stands for it) of each part, in order; parts that hold none take the next given one,
    and so do placeholders in contents that are strings."""
    found = []
    for message in messages:
        for part in _parts_of(message):
            kind = part["type"]
            if kind not in ("image", "video"):
                continue
            visual = part.get(kind)
            if visual is None:
                visual = next(images if kind == "image" else videos, None)
            if visual is None and isinstance(message["content"], str):
                raise ValueError(
                    f"<{kind}> in a message that is a string stands for one of {kind}s=, and none is left for it; as "
                    'text, write it in a part: {"type": "text", "text": …}'
                )
            if visual is None:
                raise ValueError(f"a content part of type {kind!r} holds no {kind!r}, and {kind}s= has none for it")
            found.append((kind, visual))
    return found


def _parts_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of a message; of a string, those that its placeholders stand for."""
    content = message["content"]
    if isinstance(content, list):
        return content
    return [] if message["role"] == "assistant" else [{"type": kind} for kind in PLACEHOLDER.findall(content)]


def _media_in(given: Mapping[str, Any]) -> list[str]:
    """The keys under which media stand that nothing would read."""
    return [n for n in _MEDIA if n in given and not (isinstance(given[n], str | list | tuple) and not given[n])]


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ValueError(f"a message must be a dict with role and content, got {short(message)}")
    given = {name: value for name, value in message.items() if value is not None}
    if not isinstance(given.get("role"), str):
        raise ValueError(f"a message must be a dict with role and content, got {short(message)}")
    if given.get("tool_calls"):
        raise ValueError("a message holds tool_calls; this model has no tools")
    if lost := _media_in(given):
        raise ValueError(
            f"a message holds {', '.join(lost)} beside its content, where nothing is read: write parts such as "
            '{"type": "image", "image": …} into its content'
        )
    content = given.get("content", "")
    if isinstance(content, Mapping):
        content = [content]
    if isinstance(content, list | tuple):
        content = [_part(part) for part in content]
    elif not isinstance(content, str):
        raise ValueError(f"a message's content must be a string or a list of parts, got {short(content)}")
    return {**given, "content": content}


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        raise ValueError(f'a content part must be a dict such as {{"type": "text", "text": …}}, got {short(part)}')
    # Tables hold every key in every part, with None where it does not belong.
    given = {name: value for name, value in part.items() if value is not None}
    kind = given.get("type")
    if kind != "text" and given.get("text") == "":
        del given["text"]
    if kind == "text" and (lost := _media_in(given)):
        raise ValueError(f"a content part of type 'text' holds {', '.join(lost)}; give it a part of its own")
    if kind == "text" and isinstance(given.get("text"), str):
        return {"type": "text", "text": given["text"]}
    if kind not in _VISUAL:
        raise ValueError(
            f"a content part of type {kind!r} ({short(given)}) is not supported; use text, image, image_url or video"
        )
    if unknown := sorted(given.keys() - {"type", kind, _VISUAL[kind], *_SOURCES}):
        raise ValueError(
            f"a content part of type {kind!r} holds {', '.join(unknown)}, which this processor does not take; every "
            "picture has the size that the model was made for, and num_frames or fps go to apply_chat_template"
        )
    sources = {name: given[name] for name in (kind, _VISUAL[kind], *_SOURCES) if name in given}
    if len(sources) > 1:
        raise ValueError(f"a content part of type {kind!r} holds {' and '.join(sources)}; give one of them")
    plain = {"type": _VISUAL[kind]}
    for name, value in sources.items():
        plain[plain["type"]] = {"base64": value} if name == "base64" else value
    return plain
