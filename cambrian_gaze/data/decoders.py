"""Video files to frames: decord and PyAV behind one interface. Both go by the times that the file gives each frame."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from cambrian_gaze.data.containers import has_open_groups
from cambrian_gaze.data.frame_sampling import FrameSampling, Timeline, select_frames
from cambrian_gaze.data.media import MediaError
from cambrian_gaze.extras import require

MAX_SOURCE_FRAMES = 10_000_000
"""Longest video that is opened, in frames: 46 hours at 60 frames per second."""
MAX_SAMPLED_PIXELS = 2**29
"""Most pixels of all frames taken of one video: 64 frames of 3840x2160, 1.6 GB as RGB."""

_INSTEAD = "install it, choose another --video_backend, or store the video as a folder of frames"
_OTHERWISE = "choose --video_backend pyav, or put it into another container (MP4, MKV)"
_DAMAGED = "re-encode or download it again, or delete the row"


class Video(Protocol):
    """An open video file."""

    timeline: Timeline

    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        """The frames at ascending indices, uint8 [H, W, 3], upright."""


def count_in_file(name: str, real: str, sampling: FrameSampling, clip: Mapping[str, Any]) -> int:
    """How many frames `frames_of_file` gives, from the file's index alone."""
    with _errors(name):
        return len(select_frames(open_video(real, sampling.video_backend).timeline, clip, sampling, repr(name)))


def frames_of_file(
    name: str, real: str, sampling: FrameSampling, clip: Mapping[str, Any], max_pixels: int
) -> Iterator[np.ndarray]:
    """The sampled frames of the video file `real`, uint8 [H, W, 3] each, one at a time.

    `name` is the record's path, for errors. Raises MediaError for what cannot be decoded and for limits exceeded.
    """
    with _errors(name):
        video = open_video(real, sampling.video_backend)
        indices = select_frames(video.timeline, clip, sampling, repr(name))
        for frame in video.frames(indices):
            height, width = frame.shape[:2]
            if height * width > max_pixels:
                reason = f"{name!r} has frames of {width}x{height}, more than the {max_pixels} pixels allowed"
                raise MediaError(reason, "shrink the video (or raise max_pixels), or delete the row")
            if height * width * len(indices) > MAX_SAMPLED_PIXELS:
                reason = f"{name!r}: {len(indices)} frames of {width}x{height} exceed {MAX_SAMPLED_PIXELS} pixels"
                raise MediaError(reason, "shrink the video, or lower --video_max_frames")
            yield frame


def open_video(path: str, backend: str) -> Video:
    """Opens a video file and reads when each frame is shown; nothing is decoded yet."""
    return {"decord": DecordVideo, "pyav": PyavVideo}[backend](path)


class DecordVideo:
    """Decord: the usual backend."""

    def __init__(self, path: str):
        decord = require("decord", extra="video")
        decord.logging.set_level(decord.logging.QUIET)
        if (kind := _sought_wrongly(path)) is not None:
            raise MediaError(f"decord gives other frames of {kind} than those asked for", _OTHERWISE)
        self._reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        num_frames = _check_length(len(self._reader))
        starts = self._reader.get_frame_timestamp(list(range(num_frames)))[:, 0]
        # Packets without a time (AVI) come as the lowest integer; decord seeks wrongly in such files, too.
        if not np.all(np.abs(starts) < 1e9):
            raise MediaError("the file gives no time for its frames, without which decord cannot find them", _OTHERWISE)
        if has_open_groups(path, starts, np.asarray(self._reader.get_key_indices())):
            reason = "its groups of pictures are open, of which decord gives other frames than those asked for"
            raise MediaError(reason, "choose --video_backend pyav, or re-encode it with closed groups of pictures")
        self.timeline = Timeline.of_starts(starts)

    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        """See `Video`."""
        for index in indices:
            yield self._reader[index].asnumpy()


class PyavVideo:
    """PyAV, on FFmpeg: more containers and codecs, exact about times."""

    def __init__(self, path: str):
        self._av = require("av", extra="pyav")
        self._path = path
        starts, keys = [], {}
        with self._av.open(path) as container:
            stream = _video_stream(container, path)
            self._base: Fraction = stream.time_base
            for packet in container.demux(stream):
                start = packet.dts if packet.pts is None else packet.pts
                if not packet.size or start is None or packet.is_discard:
                    continue
                starts.append(start)
                if packet.is_keyframe:
                    keys[start] = start if packet.dts is None else min(start, packet.dts)
                _check_length(len(starts))
        if not starts:
            raise MediaError("it holds no frames", _DAMAGED)
        self._starts = np.unique(starts)
        # Containers seek by decoding time, which can lie well before the time at which the keyframe is shown.
        self._keys = np.array(sorted(keys.items()), dtype=np.int64).reshape(-1, 2)
        self.timeline = Timeline.of_starts(self._starts * float(self._base))

    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        """See `Video`."""
        with self._av.open(self._path) as container:
            stream = _video_stream(container, self._path)
            stream.codec_context.thread_count = 1
            decoded, position = container.decode(stream), None
            for index in indices:
                wanted = int(self._starts[index])
                if (target := self._seek_target(position, wanted)) is not None:
                    container.seek(target, stream=stream, backward=True)
                    decoded = container.decode(stream)
                frame = next((frame for frame in decoded if frame.pts is not None and frame.pts >= wanted), None)
                if frame is None or frame.pts != wanted:
                    seconds = self.timeline.times[index]
                    raise MediaError(f"the frame at {seconds:.3f} seconds cannot be decoded", _DAMAGED)
                position = wanted
                turns = -round(getattr(frame, "rotation", 0) / 90) % 4
                yield np.rot90(frame.to_ndarray(format="rgb24"), -turns)

    def _seek_target(self, position: int | None, wanted: int) -> int | None:
        """Where to seek for a frame: None where no keyframe lies between the last frame decoded and that one."""
        before = np.searchsorted(self._keys[:, 0], wanted, side="right") - 1
        last = self._starts[0] if position is None else position
        return int(self._keys[before, 1]) if before >= 0 and self._keys[before, 0] > last else None


def _video_stream(container: Any, path: str) -> Any:
    if not container.streams.video:
        raise MediaError(f"{os.path.basename(path)!r} has no video stream", "name a video file, or delete the row")
    return container.streams.video[0]


def _sought_wrongly(path: str) -> str | None:
    """What a file is, if of a kind in which decord lands at other frames than it believes."""
    with open(path, "rb") as stream:
        head = stream.read(4 * 192)
    if head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"):
        return "ASF (WMV)"
    # The sync bytes of four packets, which M2TS begins with four bytes more.
    return "a transport stream" if any(head[i::n][:4] == b"GGGG" for i, n in ((0, 188), (4, 192))) else None


def _check_length(num_frames: int) -> int:
    if num_frames > MAX_SOURCE_FRAMES:
        raise MediaError(f"it has more than {MAX_SOURCE_FRAMES} frames", "cut it into shorter files")
    return num_frames


class _errors:
    """Turns whatever a decoder raises into a MediaError that names the file."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, MediaError):
            if repr(self.name) not in error.reason:
                raise type(error)(f"{self.name!r} cannot be decoded: {error.reason}", error.remedy) from error
        elif isinstance(error, ImportError):
            raise MediaError(f"{self.name!r} is a video file: {error}", _INSTEAD) from error
        elif isinstance(error, Exception) and not isinstance(error, MemoryError):  # decoders have types of their own
            raise MediaError(f"{self.name!r} cannot be decoded ({error})", _DAMAGED) from error
