"""Which frames of a video are taken, from the times at which they are shown. Arithmetic only, no decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cambrian_gaze.data.errors import shown
from cambrian_gaze.data.media.clips import CLIP_KEYS, OBSERVATION_KEY, SECOND_KEYS, number_of
from cambrian_gaze.data.media.image_files import MediaError

DECODERS = ("decord", "pyav")
"""Decoders of video files; the one that is named decodes, or says why it cannot."""
BACKENDS = ("auto", *DECODERS)
"""What may be asked for. "auto" is decord where its tables are exact for the file, and PyAV elsewhere."""

_SLACK = 4e-4
"""Seconds by which two times may differ and still be the same: decoders round, and one stores 32-bit floats. Less than
the millisecond between a second and 30 frames at 30000/1001 a second."""


@dataclass(frozen=True)
class FrameSampling:
    """How a video becomes frames: which of them, and by which decoder."""

    video_fps: float = 1.0
    """Frames taken per second of video."""
    video_max_frames: int = 64
    """Cap; a longer video is sampled uniformly with this many frames."""
    video_force_sample: bool = False
    """Always sample uniformly with `video_max_frames` frames, or all frames where there are fewer."""
    video_backend: str = "auto"
    """One of BACKENDS."""
    video_timeout: float = 120.0
    """Seconds that a video file may take, in a process of its own; 0 decodes in this process, without a limit."""

    def __post_init__(self) -> None:
        if not self.video_fps > 0 or self.video_max_frames < 1:
            raise ValueError(
                f"video_fps={self.video_fps} and video_max_frames={self.video_max_frames} must be positive, "
                "for example 1.0 and 64"
            )
        if self.video_backend not in BACKENDS:
            raise ValueError(f"video_backend={self.video_backend!r} is unknown; use one of {', '.join(BACKENDS)}")
        if not 0 <= self.video_timeout < float("inf"):
            raise ValueError(f"video_timeout={self.video_timeout} must be a number of seconds, or 0 for no limit")

    def identity(self) -> dict[str, Any]:
        """What tells these frames from others, for JSON: all but the time limit."""
        facts = asdict(self)
        del facts["video_timeout"]
        return facts


@dataclass(frozen=True)
class Timeline:
    """When each frame of a video is shown."""

    times: np.ndarray
    """float64 [frames], seconds, ascending, the first 0."""
    end: float
    """Seconds at which the last frame ceases to be shown."""

    @classmethod
    def regular(cls, num_frames: int, fps: float) -> Timeline:
        """Frames at a constant rate."""
        return cls(np.arange(num_frames) / fps, num_frames / fps)

    @classmethod
    def of_starts(cls, starts: np.ndarray) -> Timeline:
        """From presentation times in any order and from any origin; the last frame lasts as long as most do."""
        times = np.sort(starts.astype(np.float64))
        times -= times[0]
        usual = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
        return cls(times, float(times[-1]) + usual)

    def shown_at(self, seconds: np.ndarray | float) -> Any:
        """Index of the frame that is on the screen at a time: the last one that has begun."""
        return np.searchsorted(self.times, np.asarray(seconds) + _SLACK, side="right") - 1


def select_frames(timeline: Timeline, clip: Mapping[str, Any], sampling: FrameSampling, name: str) -> list[int]:
    """Indices of the frames to take of a video or of the clip that a record cuts out of it, ascending and distinct.

    `clip` may hold `start_time` and `end_time`, or `start` and `end` (seconds), `start_frame` and `end_frame` (end
    excluded), and `current_observation_frame`, which is one of the frames taken, whether it lies in the clip or not;
    `name` is for errors. Raises MediaError where the clip is malformed or holds no frame.
    """
    start, end = _clip_range(timeline, clip, name)
    if clip.get(OBSERVATION_KEY) is None:
        return sample_frames(timeline, start, end, sampling)
    observation = int(clip_number(clip, OBSERVATION_KEY, 0.0))
    if not 0 <= observation < len(timeline.times):
        reason = f"{name}: {OBSERVATION_KEY} {observation} is none of the {len(timeline.times)} frames"
        raise MediaError(reason, "correct it, or fetch the whole video")
    others = sampling.video_max_frames - 1
    taken = sample_frames(timeline, start, end, replace(sampling, video_max_frames=others)) if others else []
    return sorted({*taken, observation})


def sample_frames(timeline: Timeline, start: int, end: int, sampling: FrameSampling) -> list[int]:
    """Indices of the frames to take from [start, end), ascending and distinct, first frame included.

    The frame on the screen at each 1/video_fps seconds, counted from the first; where these are more than
    `video_max_frames`, the frames on the screen at that many times, evenly spread from the first frame to the last.
    """
    times = timeline.times[start:end]
    stop = timeline.times[end] if end < len(timeline.times) else timeline.end
    if not sampling.video_force_sample:
        # A frame is taken where a tick falls between its beginning and that of the next one.
        ticks = np.ceil((np.append(times, stop) - times[0] - _SLACK) * sampling.video_fps)
        ticks[0] = -1  # the first frame is taken in any case
        taken = np.flatnonzero(ticks[1:] > ticks[:-1])
        if len(taken) <= sampling.video_max_frames:
            return (start + taken).tolist()
    count = min(sampling.video_max_frames, end - start)
    shown = timeline.shown_at(np.linspace(times[0], times[-1], count))
    return np.unique(np.clip(shown, start, end - 1)).tolist()


def clip_number(clip: Mapping[str, Any], key: str, default: float) -> float:
    """A number that a record gives, or `default` where it gives none. Raises MediaError for anything else."""
    value = clip.get(key)
    if value is None:
        return default
    number = number_of(value)
    if number is None:
        reason = f'"{key}" is {shown(value)}, not a finite number'
        raise MediaError(reason, f'write "{key}" as a plain number, or drop it')
    return number


def _seconds(clip: Mapping[str, Any], limit: str, default: float) -> float:
    return next((clip_number(clip, key, default) for key in SECOND_KEYS[limit] if clip.get(key) is not None), default)


def _clip_range(timeline: Timeline, clip: Mapping[str, Any], name: str) -> tuple[int, int]:
    num_frames = len(timeline.times)
    begin, stop = _seconds(clip, "start", 0.0), _seconds(clip, "end", timeline.end)
    by_time = (
        num_frames if begin >= timeline.end else int(timeline.shown_at(begin)) if begin >= 0 else -1,
        int(np.searchsorted(timeline.times, stop - _SLACK, side="left")),
    )
    start = int(clip_number(clip, "start_frame", by_time[0]))
    end = min(num_frames, int(clip_number(clip, "end_frame", by_time[1])))
    if not 0 <= start < end:
        given = ", ".join(f"{key} {clip[key]}" for key in CLIP_KEYS if clip.get(key) is not None)
        reason = f"{name}: the clip ({given}) selects none of the {num_frames} frames, {timeline.end:g} seconds"
        raise MediaError(reason, "correct fps, start_time/end_time (start/end) or start_frame/end_frame of the record")
    return start, end
