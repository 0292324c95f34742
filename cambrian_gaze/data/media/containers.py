"""What a video file's own tables say of the order of its frames: MP4 (ISO/IEC 14496-12) and Matroska (RFC 9559).

In an open group of pictures, frames that are shown before a keyframe come after it in the file. The tables tell this
without anything being decoded; media data are skipped. Of damaged tables nothing is concluded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias

import numpy as np

Place: TypeAlias = tuple[int, int]
"""Where the content of a box or element starts and ends in its file, in bytes."""

MAX_SIBLINGS = 100_000
"""Most boxes or elements of one level that are read; clusters, of some seconds each, are the most there are."""
MAX_FRAMES = 2**24
"""Most frames of which tables are read, at up to 8 bytes each: 77 hours at 60 frames per second."""

ISO_MEDIA = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
EBML, SEGMENT, INFO, TRACKS, _CUES = 0x1A45DFA3, 0x18538067, 0x1549A966, 0x1654AE6B, 0x1C53BB6B
TIMESTAMP_SCALE, TRACK_ENTRY, TRACK_NUMBER, TRACK_TYPE, _CODEC_ID = 0x2AD7B1, 0xAE, 0xD7, 0x83, 0x86
_CUE_POINT, _CUE_TIME, _CUE_TRACK_POSITIONS, _CUE_TRACK = 0xBB, 0xB3, 0xB7, 0xF7
_USUALLY_OPEN = frozenset(
    b"hvc1 hev1 dvh1 dvhe mp4v V_MPEGH/ISO/HEVC V_MPEG4/ISO/SP V_MPEG4/ISO/ASP V_MPEG4/ISO/AP V_MPEG2 V_MPEG1".split()
)
"""Codecs whose encoders open groups unless told otherwise: decides where the tables are missing."""


def has_open_groups(path: str, starts: np.ndarray, keys: np.ndarray) -> bool:
    """Whether frames shown before a keyframe come after it in the file, as far as its tables tell.

    `starts`: seconds at which the frames are shown, ascending, 0 for the first in the file [frames]; `keys`: which
    frames, counted as they come in the file, are keyframes [keyframes]. The index of Matroska is compared with these,
    MP4 has its own. False for other containers and damaged tables.
    """
    try:
        with open(path, "rb") as file:
            head, end = file.read(8), file.seek(0, 2)
            if head[4:] in ISO_MEDIA:
                return any(_is_open_track(file, tables) for tables in _sample_tables(file, (0, end)))
            return number(head[:4]) == EBML and _is_open_matroska(file, (0, end), starts, keys)
    except (struct.error, ValueError, LookupError, OverflowError, StopIteration):
        return False


def _sample_tables(file: BinaryIO, whole: Place) -> Iterator[dict[bytes, Place]]:
    """The tables of each video track; of groups of samples (sbgp) only those that playback may start at."""
    for movie in all_of(boxes(file, whole), b"moov"):
        for track in all_of(boxes(file, movie), b"trak"):
            media = dict(boxes(file, dict(boxes(file, track))[b"mdia"]))
            if read(file, media[b"hdlr"])[8:12] == b"vide":
                tables = boxes(file, dict(boxes(file, media[b"minf"]))[b"stbl"])
                yield {kind: at for kind, at in tables if kind != b"sbgp" or read(file, at)[4:8] == b"rap "}


def _is_open_track(file: BinaryIO, tables: dict[bytes, Place]) -> bool:
    durations = entries(read(file, tables[b"stts"])[4:], 2)
    if not len(durations):  # A fragmented file, whose tables are spread all over it.
        return read(file, tables[b"stsd"])[12:16] in _USUALLY_OPEN
    if b"ctts" not in tables:
        return False
    durations = expanded(durations)
    decoded = np.cumsum(durations) - durations
    delays = expanded(entries(read(file, tables[b"ctts"])[4:], 2)).astype(np.int32)
    shown = decoded[: len(delays)] + delays[: len(decoded)]
    overtaken = np.minimum.accumulate(shown[::-1])[::-1] < shown
    if b"stss" not in tables:  # Every frame is a keyframe.
        return bool(overtaken.any())
    keyframes = [entries(read(file, tables[kind])[4:], 1)[:, 0] - 1 for kind in (b"stss", b"stps") if kind in tables]
    if b"sbgp" in tables:  # Its second version has four bytes more.
        grouping = read(file, tables[b"sbgp"])
        keyframes.append(np.flatnonzero(expanded(entries(grouping[8 + 4 * grouping[0] :], 2))))
    return bool(overtaken[np.concatenate(keyframes)].any())


def _is_open_matroska(file: BinaryIO, whole: Place, starts: np.ndarray, keys: np.ndarray) -> bool:
    segment = dict(elements(file, next(all_of(elements(file, whole), SEGMENT))))
    tracks = [leaves(file, entry) for entry in all_of(elements(file, segment[TRACKS]), TRACK_ENTRY)]
    videos = [track for track in tracks if number(track[TRACK_TYPE]) == 1]
    times: dict[bytes, list[int]] = {}
    for cue in all_of(elements(file, segment.get(_CUES, (0, 0))), _CUE_POINT):
        track = leaves(file, dict(elements(file, cue))[_CUE_TRACK_POSITIONS])[_CUE_TRACK]
        times.setdefault(track, []).append(number(leaves(file, cue)[_CUE_TIME]))
    # Of several, which is shown is the decoder's choice; keyframes tell its index.
    indexed = [times[track[TRACK_NUMBER]] for track in videos if len(times.get(track[TRACK_NUMBER], ())) == len(keys)]
    if not indexed:  # The index leaves keyframes out, or there is none.
        return any(track[_CODEC_ID].rstrip(b"\0") in _USUALLY_OPEN for track in videos)
    scale = number(leaves(file, segment[INFO]).get(TIMESTAMP_SCALE, b"\x0f\x42\x40")) / 1e9
    # Matroska rounds to milliseconds, decord to float32.
    return all((np.abs(starts[keys] - (np.array(cues) - cues[0]) * scale) > 0.005).any() for cues in indexed)


def boxes(file: BinaryIO, within: Place) -> Iterator[tuple[bytes, Place]]:
    """The boxes of ISO media side by side: their kinds, and the places of their contents."""
    start, end = within
    for _ in range(MAX_SIBLINGS):
        if start + 8 > end:
            return
        file.seek(start)
        size, kind, body = *struct.unpack(">I4s", file.read(8)), start + 8
        if size == 1:
            (size,), body = struct.unpack(">Q", file.read(8)), start + 16
        start = start + size if size else end
        if not body <= start <= end:
            raise ValueError("a box ends before it begins, or after what it lies in")
        yield kind, (body, start)


def element_heads(file: BinaryIO, within: Place) -> Iterator[tuple[int, int, int | None]]:
    """The elements of EBML side by side: number, where the content starts, where it should end (None: unknown)."""
    start, end = within
    for _ in range(MAX_SIBLINGS):
        if start >= end:
            return
        file.seek(start)
        head = file.read(12)
        of_kind = 9 - head[0].bit_length()
        of_size = 9 - head[of_kind].bit_length()
        unknown = (1 << 7 * of_size) - 1
        size, body = number(head[of_kind : of_kind + of_size]) & unknown, start + of_kind + of_size
        stop = None if size == unknown else body + size
        yield number(head[:of_kind]), body, stop
        start = end if stop is None else stop


def elements(file: BinaryIO, within: Place) -> Iterator[tuple[int, Place]]:
    """The elements of EBML side by side: their numbers, and the places of their contents as far as they are there."""
    for kind, body, stop in element_heads(file, within):
        yield kind, (body, within[1] if stop is None else min(stop, within[1]))


def all_of(parts: Iterator[tuple[Any, Place]], kind: Any) -> Iterator[Place]:
    return (place for found, place in parts if found == kind)


def leaves(file: BinaryIO, element: Place) -> dict[int, bytes]:
    return {kind: read(file, place) for kind, place in elements(file, element)}


def read(file: BinaryIO, place: Place) -> bytes:
    if place[1] - place[0] > 8 * MAX_FRAMES:
        raise ValueError("too large a table")
    file.seek(place[0])
    return file.read(place[1] - place[0])


def number(content: bytes) -> int:
    return int.from_bytes(content, "big")


def entries(table: bytes, width: int) -> np.ndarray:
    """The entries of a table that begins with their number, int64 [entries, width]."""
    return np.frombuffer(table, ">u4", number(table[:4]) * width, offset=4).reshape(-1, width).astype(np.int64)


def expanded(runs: np.ndarray) -> np.ndarray:
    """Pairs of a count and a value as the values one by one."""
    if runs[:, 0].sum() <= MAX_FRAMES:
        return np.repeat(runs[:, 1], runs[:, 0])
    raise ValueError("too many frames")
