"""What a record says about its video: the keys that cut a clip out of it, and the rates of folders of frames."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cambrian_gaze.data.errors import RecordError, shown

SECOND_KEYS = {"start": ("start_time", "start"), "end": ("end_time", "end")}
"""Limit of a clip in seconds → the keys that say it; Cambrian-S writes the second ones."""

OBSERVATION_KEY = "current_observation_frame"
"""Frame of the whole video that is shown last, beside those of the clip (EgoPlan, in Cambrian-S)."""

CLIP_KEYS = ("start_time", "end_time", "start", "end", "start_frame", "end_frame", OBSERVATION_KEY)
"""What cuts a clip out of a video, in a record's extra keys."""

FOLDER_FPS = (("TVQA", 3.0), ("shareVideoGPTV", 2.0), ("ShareGPT4Video", 2.0))
"""Part of a path of frames → frames per second at which they were extracted, as upstream Cambrian-S has it."""

DEFAULT_FPS = 1.0
"""Of other folders and lists of frames."""

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)")
_RANGE = re.compile(r"\s*\[?\s*([\d:.]+)\s*s?\s*(?:-|–|~|,|to)\s*([\d:.]+)\s*s?\s*\]?\s*")
_LIMITS = frozenset("start starts begin begins end ends stop stops".split())
_PARTS = frozenset("clip clips segment segments trim timestamp timestamps interval span window bound bounds".split())
_TIMES = frozenset("time times range ranges".split())
_UNITS = frozenset("time times sec secs second seconds s ms frame frames".split())
_PICKS = frozenset("idx index indices ids numbers".split())


def number_of(value: Any) -> float | None:
    """A number, also as text ("12.5"), or a clock ("00:01:30") in seconds; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if clock := _CLOCK.fullmatch(value.strip()):
            hours, minutes, seconds = clock.groups()
            return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds)
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, int | float) or not abs(value) < 1e12:
        return None
    return float(value)


def check_clip_keys(extra: Mapping[str, Any]) -> None:
    """Of a record with a video. Raises RecordError for a key that looks like a limit of a clip and is none of
    CLIP_KEYS, and where two keys for one limit disagree: the video would be shown whole, or its wrong part."""
    for key, value in extra.items():
        if key not in CLIP_KEYS and _looks_like_clip(key, value):
            remedy = (
                f"write start_time and end_time (seconds) or start_frame and end_frame; if {key} cuts no "
                f"clip, rename it (in a recipe: `ignore_keys: [{key}]`)"
            )
            raise RecordError(f'"{key}" ({shown(value)}) looks like a clip of the video and is not read', remedy)
    for keys in SECOND_KEYS.values():
        given = {key: number_of(extra[key]) for key in keys if extra.get(key) is not None}
        if len(set(given.values())) > 1:
            said = ", ".join(f'"{key}" {shown(extra[key])}' for key in given)
            raise RecordError(f"two keys disagree about the clip: {said}", "keep one of them")


def other_rate(clip: Mapping[str, Any]) -> str | None:
    """A key that looks like a rate of frames and is not `fps`."""
    for key, value in clip.items():
        words = _words(key)
        rate = "fps" in words or {"frame", "rate"} <= words or {"frames", "per"} <= words
        if rate and key != "fps" and number_of(value) is not None:
            return key
    return None


def folder_fps(path: str) -> float:
    """Frames per second of a folder or list of frames below `path` where nobody says it."""
    return next((fps for part, fps in FOLDER_FPS if part in path), DEFAULT_FPS)


def _looks_like_clip(key: str, value: Any) -> bool:
    words = _words(key)
    if isinstance(value, Mapping):
        return bool(words & (_PARTS | _TIMES)) and any(
            inner in CLIP_KEYS or _looks_like_clip(inner, number) for inner, number in value.items()
        )
    if isinstance(value, str) and (limits := _RANGE.fullmatch(value)):
        value = limits.groups()
    elif isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
        value = value[0]
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(number_of(v) is not None for v in value)
    if isinstance(value, list | tuple):
        numbers = bool(value) and all(number_of(v) is not None for v in value)
        return (pair and bool(words & (_PARTS | _LIMITS | _TIMES))) or (numbers and _picks_frames(words))
    number = number_of(value)
    if number is None:
        return False
    if words & _LIMITS or _picks_frames(words) or (words & {"from", "to"} and words & _UNITS):
        return True
    return bool(words & {"timestamp", "observation"}) and number < 1e8


def _picks_frames(words: set[str]) -> bool:
    return bool(words & {"frame", "frames"}) and (bool(words & _PICKS) or words == {"frames"})


def _words(key: Any) -> set[str]:
    return set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(key)).lower()))
