"""Video files to frames: decord and PyAV behind one interface. Both go by the times that the file gives each frame."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from cambrian_gaze.data.media.containers import has_open_groups
from cambrian_gaze.data.media.decoder_notes import note_decoder
from cambrian_gaze.data.media.frame_sampling import FrameSampling, Timeline, select_frames
from cambrian_gaze.data.media.image_files import MachineError, MediaError, check_machine
from cambrian_gaze.data.media.wholeness import stated, what_is_missing
from cambrian_gaze.extras import require

MAX_SOURCE_FRAMES = 10_000_000
"""Longest video that is opened, in frames: 46 hours at 60 frames per second."""
MAX_SAMPLED_PIXELS = 2**29
"""Most pixels of all frames taken of one video: 64 frames of 3840x2160, 1.6 GB as RGB."""

_INSTEAD = "choose another --video_backend, or store videos as folders of frames"
_OTHERWISE = "choose --video_backend auto or pyav, or put it into another container (MP4, MKV)"
_DAMAGED = "re-encode or download it again, or delete the row"
_COMMANDS = {name: f"pip install 'cambrian-gaze[{extra}]'" for name, extra in (("decord", "video"), ("av", "pyav"))}

Note = Callable[[str, str | None], None]
"""Is told the name of a file that was opened and, where PyAV stood in for decord, why."""


class Video(Protocol):
    """An open video file."""

    timeline: Timeline
    instead: str | None
    """Why PyAV stands in for decord, where it does."""

    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        """The frames at ascending indices, uint8 [H, W, 3], upright."""


def count_in_file(
    name: str, real: str, sampling: FrameSampling, clip: Mapping[str, Any], note: Note = note_decoder
) -> int:
    """How many frames `frames_of_file` gives, from the file's index alone."""
    with _errors(name):
        video = open_video(real, sampling.video_backend)
        note(name, video.instead)
        return len(select_frames(video.timeline, clip, sampling, repr(name)))


def frames_of_file(
    name: str,
    real: str,
    sampling: FrameSampling,
    clip: Mapping[str, Any],
    max_pixels: int,
    note: Note = note_decoder,
) -> Iterator[np.ndarray]:
    """The sampled frames of the video file `real`, uint8 [H, W, 3] each, one at a time.

    `name` is the record's path, for errors. Raises MediaError for what cannot be decoded and for limits exceeded, and
    MachineError where a decoder is missing.
    """
    with _errors(name):
        video = open_video(real, sampling.video_backend)
        note(name, video.instead)
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
    """Opens a video file and reads when each frame is shown; nothing is decoded yet. Raises MediaError for a file that
    holds less than it states."""
    whole = stated(path)
    if missing := what_is_missing(whole, 0.0) if whole.torn else None:
        raise MediaError(missing, _DAMAGED)
    video = {"auto": _open_exactly, "decord": DecordVideo, "pyav": PyavVideo}[backend](path, whole.tracks)
    if missing := what_is_missing(whole, video.timeline.end):
        raise MediaError(missing, _DAMAGED)
    return video


def _open_exactly(path: str, tracks: int) -> Video:
    """Decord where it gives the frames that are asked for, else PyAV."""
    try:
        return DecordVideo(path, tracks)
    except MachineError as error:
        reason = None if isinstance(error.__cause__, ModuleNotFoundError) else str(error)
        if importlib.util.find_spec("av") is None:
            install = f"{_COMMANDS['decord']}, or: {_COMMANDS['av']}"
            raise MachineError(f"there is no decoder of video files; install one with: {install}") from error
    except MemoryError:
        raise
    except Exception as error:  # decord has types of its own
        reason = error.reason if isinstance(error, MediaError) else f"decord cannot open it ({error})"
        if importlib.util.find_spec("av") is None:
            raise MachineError(f"PyAV is needed here ({reason}); install it with: {_COMMANDS['av']}") from error
    video = PyavVideo(path, tracks)
    video.instead = reason
    return video


def _load(module: str, extra: str) -> Any:
    """A decoder's module. Raises MachineError where it, or a library that it needs, is missing."""
    try:
        return require(module, extra=extra)
    except ImportError as error:
        raise MachineError(f"{error}; or {_INSTEAD}") from error.__cause__
    except Exception as error:  # a shared library, loaded by the module's own code
        command = _COMMANDS[module].replace("install", "install --force-reinstall")
        raise MachineError(f"{module!r} could not be loaded ({error}); install it with: {command}") from error


class DecordVideo:
    """Decord: the usual backend."""

    instead: str | None = None

    def __init__(self, path: str, tracks: int = 1):
        decord = _load("decord", extra="video")
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
            remedy = "choose --video_backend auto or pyav, or re-encode it with closed groups of pictures"
            raise MediaError(reason, remedy)
        self.timeline = Timeline.of_starts(starts)
        if tracks > 1 and importlib.util.find_spec("av") is not None:
            self._check_track(PyavVideo(path, tracks))

    def _check_track(self, best: PyavVideo) -> None:
        """Decord takes a track by rules of its own. Raises MediaError where it is not the best one."""
        same = len(self.timeline.times) == len(best.timeline.times)
        if not same or sorted(self._reader[0].shape[:2]) != sorted(best.size):
            raise MediaError("of its video tracks decord takes another than the main one", _OTHERWISE)

    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        """See `Video`."""
        for index in indices:
            yield self._reader[index].asnumpy()


class PyavVideo:
    """PyAV, on FFmpeg: more containers and codecs, exact about times."""

    instead: str | None = None
    size: tuple[int, int]
    """Height and width as stored, before any turn."""

    def __init__(self, path: str, tracks: int = 1):
        self._av = _load("av", extra="pyav")
        self._path = path
        starts, keys = [], {}
        with self._av.open(path) as container:
            stream = _video_stream(container, path)
            self._track = stream.index
        with self._av.open(path) as container:
            stream = container.streams[self._track]
            self.size = stream.codec_context.height, stream.codec_context.width
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
            stream = container.streams[self._track]
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
    """The main video stream: FFmpeg's best one, but no picture that is attached to the file, such as a cover, and no
    still where there is a film. Of a file with several all packets are read."""
    films = [stream for stream in container.streams.video if not _is_attached(stream)]
    if not films:
        kind = "but attached pictures" if container.streams.video else "stream"
        raise MediaError(f"{os.path.basename(path)!r} has no video {kind}", "name a video file, or delete the row")
    if len(films) > 1:
        frames = Counter(packet.stream.index for packet in container.demux(films) if packet.size)
        films = [stream for stream in films if frames[stream.index] > 1] or films
    best = container.streams.best("video") if hasattr(container.streams, "best") else None
    return best if best in films else films[0]


def _is_attached(stream: Any) -> bool:
    disposition = getattr(stream, "disposition", None)  # of newer versions of PyAV
    return "attached_pic" in (getattr(disposition, "name", None) or "").split("|")


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
        elif isinstance(error, MachineError):
            if repr(self.name) not in str(error):
                raise MachineError(f"{self.name!r} is a video file: {error}") from error
        elif isinstance(error, Exception) and not isinstance(error, MemoryError):  # decoders have types of their own
            if isinstance(error, OSError):
                check_machine(error, self.name)
            raise MediaError(f"{self.name!r} cannot be decoded ({error})", _DAMAGED) from error
