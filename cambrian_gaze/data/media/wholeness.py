"""Whether a video file holds what its header states: MP4 and MOV, Matroska and WebM, AVI. Nothing is decoded.

A file whose download broke off has the header of the whole: decoders give the frames that are there and say nothing.
Sources: ISO/IEC 14496-12; RFC 9559; Microsoft's AVI RIFF and OpenDML 1.02. Of damaged tables nothing is concluded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from cambrian_gaze.data.media.containers import (
    EBML,
    INFO,
    ISO_MEDIA,
    MAX_SIBLINGS,
    SEGMENT,
    TIMESTAMP_SCALE,
    TRACK_ENTRY,
    TRACK_TYPE,
    TRACKS,
    Place,
    all_of,
    boxes,
    element_heads,
    elements,
    entries,
    leaves,
    number,
    read,
)

_CLUSTER, _DURATION, _TIMESTAMP, _VIDEO = 0x1F43B675, 0x4489, 0xE7, 1
_SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK, _BLOCK_DURATION = 0xA3, 0xA0, 0xA1, 0x9B


class Stated(NamedTuple):
    """What a container says of itself."""

    torn: bool = False
    """It says that it is longer than its file."""
    seconds: float | None = None
    """How long it says it is; None where it does not say."""
    held: float | None = None
    """How long that is which its tables or clusters hold; None where only the frames tell."""
    tracks: int = 1
    """How many video tracks it has, still pictures among them."""


def what_is_missing(stated: Stated, shown: float) -> str | None:
    """Why a video is not whole, for a message; None where nothing is known to be missing.

    `shown`: seconds from the first frame to the end of the last. A second, or a twentieth of the whole, may be missing:
    headers are rounded, and the last frame may stand for long.
    """
    if stated.torn:
        return "its file is shorter than its header says; it was cut off"
    held = shown if stated.held is None else max(shown, stated.held)
    if not stated.seconds or stated.seconds - held <= max(1.0, 0.05 * stated.seconds):
        return None
    return f"its header states {stated.seconds:.1f} seconds, and it holds {held:.1f}"


def stated(path: str) -> Stated:
    """What the container of a video file states; nothing for other containers."""
    try:
        with open(path, "rb") as file:
            head, end = file.read(12), file.seek(0, 2)
            if head[4:8] in ISO_MEDIA:
                return _iso_media(file, end)
            if number(head[:4]) == EBML:
                return _matroska(file, end)
            if head[:4] == b"RIFF" and head[8:] == b"AVI ":
                return _avi(file, end)
    except (struct.error, ValueError, LookupError, OverflowError, StopIteration):
        pass
    return Stated()


def _iso_media(file: BinaryIO, end: int) -> Stated:
    movie, place = None, 0
    for _ in range(MAX_SIBLINGS):
        if place + 8 > end:
            break
        file.seek(place)
        size, kind, body = *struct.unpack(">I4s", file.read(8)), place + 8
        if size == 1:
            (size,), body = struct.unpack(">Q", file.read(8)), place + 16
        stop = place + size if size else end
        if stop > end and kind in (b"mdat", b"moov", b"moof"):
            return Stated(torn=True)
        if not body <= stop <= end:  # what follows is no box
            break
        movie = (body, stop) if kind == b"moov" else movie
        place = stop
    return Stated() if movie is None else _movie(file, movie, end)


def _movie(file: BinaryIO, movie: Place, end: int) -> Stated:
    parts = dict(boxes(file, movie))
    scale, duration = _times(read(file, parts[b"mvhd"]))
    count = sum(_is_video(file, track) for track in all_of(boxes(file, movie), b"trak"))
    if b"mvex" in parts:  # fragments, whose tables are spread over the file
        extends = dict(boxes(file, parts[b"mvex"]))
        body = read(file, extends[b"mehd"]) if b"mehd" in extends else b"\0" * 8
        return Stated(seconds=number(body[4:12] if body[0] else body[4:8]) / scale, tracks=count)
    tracks = [_track(file, track, scale) for track in all_of(boxes(file, movie), b"trak")]
    torn = any(track.last_place >= end for track in tracks)
    # The movie is as long as its longest track; a video track may also state more than its own table holds.
    seconds = duration / scale if duration < 2**32 - 1 else None
    movies = Stated(torn, seconds, max(track.held for track in tracks), count)
    own = [Stated(torn, track.seconds, track.frames, count) for track in tracks if track.is_video]
    return max([movies, *own], key=lambda one: (one.seconds or 0.0) - one.held)


class _Track(NamedTuple):
    is_video: bool
    seconds: float
    """Duration that it states."""
    frames: float
    """Duration of all that its table holds."""
    held: float
    """The longer of this and its edit list."""
    last_place: int
    """Where the last piece of its data begins in the file."""


def _track(file: BinaryIO, place: Place, movie_scale: int) -> _Track:
    inside = dict(boxes(file, place))
    media = dict(boxes(file, inside[b"mdia"]))
    tables = dict(boxes(file, dict(boxes(file, media[b"minf"]))[b"stbl"]))
    kind, width = (b"co64", ">u8") if b"co64" in tables else (b"stco", ">u4")
    last_place = int(np.frombuffer(read(file, tables[kind]), width, offset=8).max(initial=0))
    scale, duration = _times(read(file, media[b"mdhd"]))
    runs = entries(read(file, tables[b"stts"])[4:], 2)
    frames = float((runs[:, 0] * runs[:, 1]).sum()) / scale
    edits = dict(boxes(file, inside[b"edts"])).get(b"elst") if b"edts" in inside else None
    edited = 0.0 if edits is None else _edited(read(file, edits)) / movie_scale
    return _Track(_is_video(file, place), duration / scale, frames, max(frames, edited), last_place)


def _is_video(file: BinaryIO, track: Place) -> bool:
    media = dict(boxes(file, dict(boxes(file, track))[b"mdia"]))
    return read(file, media[b"hdlr"])[8:12] == b"vide"


def _times(header: bytes) -> tuple[int, int]:
    """Units per second and duration in a box mvhd or mdhd."""
    scale, duration = struct.unpack_from(">IQ", header, 20) if header[0] else struct.unpack_from(">II", header, 12)
    return scale, duration


def _edited(table: bytes) -> int:
    """The sum of the durations of an edit list, in the movie's units."""
    size, wide = (20, ">Q") if table[0] else (12, ">I")
    return sum(struct.unpack_from(wide, table, 8 + size * i)[0] for i in range(number(table[4:8])))


def _matroska(file: BinaryIO, end: int) -> Stated:
    start, stop = next((start, stop) for kind, start, stop in element_heads(file, (0, end)) if kind == SEGMENT)
    if stop is not None and stop > end:
        return Stated(torn=True)
    about, last, count = None, None, 1
    segment = start, end
    for kind, start, stop in element_heads(file, segment):
        if kind == INFO:
            about = {kind: read(file, place) for kind, place in elements(file, (start, stop))}
        if kind == TRACKS:
            tracks = all_of(elements(file, (start, stop)), TRACK_ENTRY)
            count = sum(number(leaves(file, track)[TRACK_TYPE]) == _VIDEO for track in tracks)
        if kind == _CLUSTER:
            if stop is None:  # a live stream's
                return Stated(tracks=count)
            if stop > end:
                return Stated(torn=True)
            last = (start, stop)
    if about is None or _DURATION not in about or last is None:
        return Stated(tracks=count)
    scale = number(about.get(TIMESTAMP_SCALE, b"\x0f\x42\x40")) / 1e9
    value = about[_DURATION]
    (duration,) = struct.unpack(">f" if len(value) == 4 else ">d", value)
    return Stated(seconds=duration * scale, held=_span(file, last) * scale, tracks=count)


def _span(file: BinaryIO, cluster: Place) -> float:
    """When the last block of a cluster ends, in units of the segment."""
    base, latest = 0, 0
    for kind, place in elements(file, cluster):
        if kind == _TIMESTAMP:
            base = number(read(file, place))
        elif kind == _SIMPLE_BLOCK:
            latest = max(latest, _block_time(file, place))
        elif kind == _BLOCK_GROUP:
            group = dict(elements(file, place))
            lasts = number(read(file, group[_BLOCK_DURATION])) if _BLOCK_DURATION in group else 0
            latest = max(latest, _block_time(file, group[_BLOCK]) + lasts)
    return base + latest


def _block_time(file: BinaryIO, place: Place) -> int:
    file.seek(place[0])
    head = file.read(12)
    return struct.unpack_from(">h", head, 9 - head[0].bit_length())[0]


def _avi(file: BinaryIO, end: int) -> Stated:
    """The index, at the end, tells that the file is whole, also where the sizes of its lists do not fit."""
    place, torn, indexed, seconds = 0, False, False, []
    while place + 12 <= end:
        file.seek(place)
        kind, size, form = struct.unpack("<4sI4s", file.read(12))
        if kind != b"RIFF":
            break
        torn |= place + 8 + size > end
        for chunk, start, stop in _chunks(file, place + 12, min(place + 8 + size, end)):
            if chunk == b"hdrl":
                seconds = list(_avi_seconds(file, start, stop))
            indexed |= chunk == b"idx1" and stop <= end
        place += 8 + size + size % 2
    return Stated(torn and not indexed, seconds[0] if len(seconds) == 1 else None, tracks=len(seconds))


def _chunks(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Chunks of RIFF side by side, lists by their own name: name, where the content starts and should end."""
    for _ in range(MAX_SIBLINGS):
        if start + 8 > end:
            return
        file.seek(start)
        name, size = struct.unpack("<4sI", file.read(8))
        is_list = name == b"LIST"
        yield file.read(4) if is_list else name, start + (12 if is_list else 8), start + 8 + size
        start += 8 + size + size % 2


def _avi_seconds(file: BinaryIO, start: int, end: int) -> Iterator[float | None]:
    """How long each stream of pictures says it is."""
    for name, begin, stop in _chunks(file, start, end):
        for part, place, _ in _chunks(file, begin, stop) if name == b"strl" else ():
            header = read(file, (place, place + 48)) if part == b"strh" else b""
            if header.startswith(b"vids"):
                scale, rate, _, length = struct.unpack_from("<IIII", header, 20)
                yield length * scale / rate if rate and length else None
