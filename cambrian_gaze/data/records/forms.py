"""Other ways to write a record, read as LLaVA's: whose turns and media stand under which keys.

Turns: `conversations` (LLaVA, ShareGPT), `messages` (OpenAI, Hugging Face), `texts` (FineVision, The Cauldron),
`prompt` with `completion` (TRL). Media: the keys below. What looks like media under any other key, in a row that has
none otherwise, is an error: it would be a row of text only, and its picture lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cambrian_gaze.data.errors import RecordError, shown

ROLES = {
    **{"system": "system", "developer": "system"},
    **{"human": "user", "user": "user"},
    **{"gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"},
}
"""Speaker in a record ("from" or "role") → role in a chat message."""

TURN_KEYS = ("conversations", "messages", "texts", "conversation", "prompt")
"""Where the turns stand; the first that there is."""

IMAGE_KEYS = (
    *("image", "images", "img", "imgs", "image_path", "image_paths", "img_path", "img_paths"),
    *("image_file", "image_files", "picture", "pictures"),
)
SYSTEM_KEYS = ("system", "system_prompt")
"""Where the system turn may stand beside the turns (LLaMA-Factory, ms-swift)."""

VIDEO_KEYS = ("video", "videos", "video_path", "video_paths", "video_file", "video_files")
"""LLaVA's own key, then the others that are read."""

Picture = str | bytes

_NONE = frozenset({"", "None", "nan", "NaN", "null"})
"""Ways in which tables and Python programs write that there is no picture."""

PICTURE_SUFFIXES = frozenset(".png .jpg .jpeg .webp .bmp .gif .tif .tiff .ppm .jp2".split())
VIDEO_SUFFIXES = frozenset(".mp4 .avi .mov .mkv .webm .flv .wmv .m4v .mpg .mpeg .ts .3gp .ogv".split())
_OF_A_TURN = frozenset("from role value content system user assistant".split())
_OF_A_PART = frozenset("type text index image image_url video video_url path url".split())
_CONVERT = (
    '"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}], or "messages" with role and content'
)


class TurnRest(NamedTuple):
    """What stands in a turn beside speaker and text."""

    where: str
    is_answer: bool
    keys: dict[str, Any]


class Turns(NamedTuple):
    """The turns of a record, and what stands within them."""

    turns: list[dict[str, str]]
    images: list[Any]
    videos: list[Any]
    key: str
    """Where they stood."""
    rest: list[TurnRest]
    of_video: dict[str, Any]
    """What the message says of its video, such as fps and the limits of a clip."""

    def agreeing_with(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """`of_video`. Raises RecordError where the row says otherwise."""
        for key, value in self.of_video.items():
            if row.get(key, value) != value:
                reason = f'"{key}" is {shown(row[key])} for the row and {shown(value)} in its message'
                raise RecordError(reason, "keep one of the two")
        return self.of_video


def read_turns(raw: Mapping[str, Any]) -> Turns:
    """The turns as {"from": a key of ROLES, "value": text}. Raises RecordError."""
    key = next((key for key in TURN_KEYS if isinstance(raw.get(key), list | dict)), None)
    if key is None:
        written = next((key for key in TURN_KEYS if raw.get(key) is not None), None)
        if written is not None and (written != "prompt" or "completion" in raw):
            remedy = f'unpack "{written}" where it is JSON as text (json.loads); else write ' + _CONVERT
            raise RecordError(f'"{written}" is missing or no list: {shown(raw[written])}', remedy)
        keys = f"the row has the keys {shown(', '.join(map(str, raw)), 200)}" if raw else "the row is empty"
        raise RecordError(f'"conversations" is missing or no list; {keys}', "add " + _CONVERT)
    value = raw[key]
    if isinstance(value, dict):  # how Arrow stores a sequence of structs
        value = _transposed(key, value)
    if key == "prompt":
        completion = raw.get("completion") or []
        if not isinstance(completion, list):
            reason = f'"prompt" is a list of messages, and "completion" none: {shown(completion)}'
            raise RecordError(reason, "write the answer as a list of messages too")
        value = value + completion
    if not value:
        raise RecordError("the conversation is empty (0 turns)", "add a human and a gpt turn, or delete the row")
    found = Turns([], [], [], key, [], {})
    for number, turn in enumerate(value, 1):
        where = f"turn {number} of {len(value)}"
        for speaker, content in _said(turn, where):
            text = content if isinstance(content, str) else _joined(content, found, where)
            found.turns.append({"from": speaker, "value": text})
        keys = {key: value for key, value in turn.items() if value is not None and key not in _OF_A_TURN}
        if keys:
            found.rest.append(TurnRest(where, ROLES[found.turns[-1]["from"]] == "assistant", keys))
    _begin_with_system(found.turns, raw)
    return found


def read_images(raw: Mapping[str, Any], within: list[Any]) -> tuple[list[Picture], str]:
    """The pictures of a row, in order, and the key under which they stand; `within`: those of its messages."""
    return _one_list(raw, IMAGE_KEYS, within, _pictures)


def read_video(raw: Mapping[str, Any], within: list[Any]) -> tuple[str | list[str] | None, str]:
    """The video of a row, a path or a list of frames, and its key. Raises RecordError where there are several."""
    videos, key = _one_list(raw, VIDEO_KEYS, within, _videos)
    if len(videos) > 1:
        remedy = "a record has one video: split it, or list the frames of all as one video"
        raise RecordError(f'"{key}" lists {len(videos)} videos', remedy)
    return (videos[0] if videos else None), key


def _begin_with_system(turns: list[dict[str, str]], raw: Mapping[str, Any]) -> None:
    """Puts the system text that stands beside the turns before them. Raises RecordError where they have another."""
    for key in SYSTEM_KEYS:
        text = raw.get(key)
        if not is_text(text) or not text.strip():
            continue
        if ROLES[turns[0]["from"]] != "system":
            turns.insert(0, {"from": "system", "value": text})
        elif turns[0]["value"].strip() != text.strip():
            remedy = f"keep one of them (in a recipe: `ignore_keys: [{key}]`)"
            raise RecordError(f'the system turn and "{key}" differ: {shown(text)}', remedy)


def check_path(path: str) -> None:
    """Raises RecordError for what is no path: an address, or a file's content."""
    scheme = path[:32].partition(":")[0].lower()
    if scheme == "data" or len(path) > 4096:
        remedy = "pictures must be files: write it to one below image_folder, or use a table with a column of pictures"
        raise RecordError(f"a picture stands in the record itself, {shown(path)}", remedy)
    if path[len(scheme) : len(scheme) + 3] == "://":
        remedy = "download it, and write its path below the image or video folder into the record"
        raise RecordError(f"{shown(path, 160)} is an address (URL), and nothing is downloaded", remedy)


def _transposed(key: str, columns: dict[str, Any]) -> list[dict[str, Any]]:
    lists = list(columns.values())
    if not lists or not all(isinstance(column, list) and len(column) == len(lists[0]) for column in lists):
        raise RecordError(f'"{key}" is no list', "write a list: " + _CONVERT)
    return [dict(zip(columns, entry, strict=True)) for entry in zip(*lists, strict=True)]


def _said(turn: Any, where: str) -> Iterator[tuple[str, Any]]:
    """(speaker, content) of a turn, or of the two that FineVision writes as one."""
    if isinstance(turn, dict):
        turn = {key: value for key, value in turn.items() if value is not None}
        speaker = turn.get("from", turn.get("role"))
        content = turn.get("value", turn.get("content"))
        if speaker is None and content is None and "user" in turn and "assistant" in turn:
            yield from ((role, turn[role]) for role in ("system", "user", "assistant") if role in turn)
            return
        if is_text(speaker) and (is_text(content) or isinstance(content, list)):
            if speaker not in ROLES:
                remedy = f'set "from" to one of: {", ".join(ROLES)}'
                raise RecordError(f'{where} is from "{speaker}"', remedy)
            yield speaker, content
            return
    remedy = 'write it as {"from": "human", "value": "text"}, in valid Unicode'
    raise RecordError(f"{where} lacks a speaker or a text: {shown(turn)}", remedy)


def _joined(parts: list[Any], found: Turns, where: str) -> str:
    """The text of a message in parts, a placeholder for each picture and video; what these hold goes to `found`."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        part = {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else {}
        kind = str(part.get("type", next(iter(part), ""))).removesuffix("_url")
        if kind == "text" and is_text(part.get("text")):
            if "<image>" in part["text"] or "<video>" in part["text"]:
                remedy = "give pictures as parts; write the word another way where it is meant as text"
                raise RecordError(f"{where}: a part of type text holds <image> or <video>", remedy)
            text += part["text"]
        elif kind in ("image", "video"):
            text += f"<{kind}>"
            held = next((part[key] for key in (kind, f"{kind}_url", "path", "url") if part.get(key) is not None), None)
            if kind == "video":
                found.of_video.update((key, value) for key, value in part.items() if key not in _OF_A_PART)
            if held is not None:
                (found.images if kind == "image" else found.videos).append(held)
        else:
            remedy = 'use {"type": "text", "text": …}, "image" or "video"'
            raise RecordError(f"{where}: a content part is {shown(part)}", remedy)
    return text


def _one_list(raw: Mapping[str, Any], keys: tuple[str, ...], within: list[Any], read: Any) -> tuple[list[Any], str]:
    """What the first key that holds something holds. Others may repeat it, and hold as many."""
    found = {key: items for key in keys if key in raw and (items := read(key, raw[key]))}
    if within:
        found = {"content": read("contents", within), **found}
    if not found:
        return [], keys[0]
    key, items = next(iter(found.items()))
    for other, more in found.items():
        if len(more) != len(items):
            remedy = f"keep one of the two (in a recipe: `ignore_keys: [{other}]`)"
            raise RecordError(f'"{key}" holds {len(items)} {keys[0]}s, "{other}" {len(more)}', remedy)
    return items, key


def _pictures(key: str, value: Any) -> list[Picture]:
    items = value if isinstance(value, list) else [value]
    held = [held_by(item) for item in items]
    if all(item is None for item in held):
        return []
    if not all(isinstance(item, bytes) or (is_text(item) and item) for item in held):
        raise RecordError(
            f'"{key}" is neither a path nor a list of paths: {shown(value)}',
            "give non-empty relative paths (a table may hold bytes), or drop the key",
        )
    return held


def _videos(key: str, value: Any) -> list[str | list[str]]:
    """Videos: each a path, or a list of frames. A list of paths is one video's frames, unless its key is a plural or
    they are video files."""
    held = [held_by(item) for item in value] if isinstance(value, list) else [held_by(value)]
    if all(item is None for item in held):
        return []
    if any(isinstance(item, bytes) for item in held):
        remedy = "write the video to a file below video_folder, and its path into the record"
        raise RecordError(f'"{key}" holds the bytes of a video', remedy)
    whole = [all(is_text(i) and i for i in item) if isinstance(item, list) else is_text(item) for item in held]
    if not all(whole) or any(item == [] for item in held):
        raise RecordError(
            f'"{key}" is neither a path nor a list of frame paths: {shown(value)}',
            "give non-empty relative paths, or drop it",
        )
    frames = all(suffix(item) in PICTURE_SUFFIXES for item in held) or not key.endswith("s")
    # Of a GIF in a list of frames only the first picture would be seen.
    films = VIDEO_SUFFIXES | ({".gif"} if len(held) == 1 or key.endswith("s") else set())
    if not isinstance(value, list) or not frames or all(suffix(item) in films for item in held):
        return held
    if all(isinstance(item, list) for item in held):
        return held
    if not all(isinstance(item, str) for item in held):
        raise RecordError(f'"{key}" mixes files and lists of frames: {shown(value)}', "give one video")
    return [held]


def held_by(item: Any) -> Any:
    """What an entry stands for: a path, bytes, a list, or None where it says that there is nothing."""
    if isinstance(item, dict) and item and set(item) - {"detail"} <= {"bytes", "path", "url"}:  # OpenAI's has `detail`
        item = item.get("bytes") or item.get("path") or item.get("url")
    if item is None or (isinstance(item, float) and math.isnan(item)):
        return None
    if isinstance(item, str) and item.strip() in _NONE:
        return None
    return bytes(item) if isinstance(item, bytearray) else item


def suffix(path: Any) -> str:
    """Of a path or address in lower case; empty for anything else."""
    return Path(path.split("?")[0]).suffix.lower() if isinstance(path, str) else ""


def is_text(value: Any) -> bool:
    """Whether it is a string that a tokenizer takes: JSON can spell lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
