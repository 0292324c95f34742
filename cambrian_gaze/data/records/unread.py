"""What a row says and nothing reads: media, weights of answers, tools. Each is an error that names the key, since the
row would be trained on as another one than it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cambrian_gaze.data.errors import RecordError, shown
from cambrian_gaze.data.records.forms import PICTURE_SUFFIXES, VIDEO_SUFFIXES, TurnRest, held_by, suffix

_OTHER_SUFFIXES = frozenset(".wav .mp3 .flac .m4a .npy .svg .heic .avif .pdf".split())
_SUFFIXES = PICTURE_SUFFIXES | VIDEO_SUFFIXES | _OTHER_SUFFIXES
_MEDIA_WORDS = frozenset("image images img imgs picture pictures photo photos video videos frame frames audio".split())
_PLACE_WORDS = frozenset("path paths file files filename name url urls uri".split())

_BASE64 = ("iVBORw0KGgo", "/9j/", "UklGR", "R0lGOD", "data:image", "data:video")
"""How PNG, JPEG, WebP and GIF begin as text."""

_LOSS_KEYS = ("weight", "loss_weight", "loss_scale", "loss", "train", "training")
"""Whether, or how much, an answer is learnt: OpenAI, Axolotl, ms-swift, XTuner."""
_ROW_WEIGHTS = ("weight", "loss_weight", "sample_weight")
_ANSWER_KEYS = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""Parts of an answer beside its text."""
_TOOL_KEYS = ("tools", "functions")


def check_nothing_unread(rest: Mapping[str, Any], where: str = "") -> None:
    """Of a row without media: raises RecordError where a key that was not read looks like some. `where`: in the row."""
    inner = {f"{key}.{name}": v for key, value in rest.items() if isinstance(value, dict) for name, v in value.items()}
    for key, value in [*rest.items(), *inner.items()]:
        if _looks_like_media(key, value):
            key = key if key in rest else key.partition(".")[0]
            remedy = (
                f'name it "image" or "video" (in a recipe: `columns: {{image: {key}}}`), or, if the row is meant to be '
                f"text, delete it (in a recipe: `ignore_keys: [{key}]`)"
            )
            if where:
                remedy = 'list the media of all turns under "image" or "video" of the row, in the order of the turns'
            raise RecordError(f'{where}the key "{key}" looks like media and is not read: {shown(value)}', remedy)


def check_turns(rest: list[TurnRest], has_media: bool) -> None:
    """Of the keys beside the texts of the turns: raises RecordError for answers that are to be learnt otherwise than
    the rest, for parts of answers that would be lost and, in a row without media, for what looks like some."""
    for where, is_answer, keys in rest:
        for key in _LOSS_KEYS if is_answer else ():
            if key in keys and not _is_whole(keys[key]):
                remedy = (
                    f'delete this answer and its question, or "{key}" where the answer is to be learnt as the others'
                )
                raise RecordError(f'{where} says "{key}": {shown(keys[key])}, and every answer is learnt alike', remedy)
        for key in _ANSWER_KEYS:
            if keys.get(key):
                remedy = f'write it into the text of the turn where it is to be learnt, and delete "{key}"'
                raise RecordError(f'{where}: "{key}" is not read: {shown(keys[key])}', remedy)
        if not has_media:
            check_nothing_unread(keys, f"{where}: ")


def check_row(rest: Mapping[str, Any]) -> None:
    """Of the keys beside turns and media: raises RecordError for tools that the answers may call and for a weight of
    the row."""
    for key in _TOOL_KEYS:
        if (value := rest.get(key)) and value != "[]":
            remedy = f"write them into the system turn, or drop them (in a recipe: `ignore_keys: [{key}]`)"
            raise RecordError(f'the tools under "{key}" are not read: {shown(value)}', remedy)
    for key in _ROW_WEIGHTS:
        value = rest.get(key)
        if isinstance(value, int | float) and not _is_whole(value):
            remedy = (
                f"give rows of another weight a source of their own in a recipe, with `weight`; if {key} is none, say "
                f"`ignore_keys: [{key}]` there"
            )
            raise RecordError(f'the row says "{key}": {shown(value)}, and all rows of a file weigh the same', remedy)


def _is_whole(weight: Any) -> bool:
    return str(weight).strip().lower() in ("1", "1.0", "true", "yes")


def _looks_like_media(key: str, value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    items = [held_by(item) for item in items[:4]]
    words = set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(key)).lower()))
    named = bool(words & _MEDIA_WORDS) and (bool(words & _PLACE_WORDS) or len(words) == 1)
    for item in items:
        if isinstance(item, bytes):
            return True
        if isinstance(item, str):
            if named or (item.startswith(_BASE64) and len(item) > 64):
                return True
            if len(item) < 1024 and "\n" not in item and suffix(item) in _SUFFIXES and " " not in Path(item).suffix:
                return True
    return False
