"""Where the rows of a JSONL file or a JSON array begin, found in numpy over large blocks: no Python per row or line.

Rows are not parsed here: one that is no JSON is found like any other, and fails alone when it is read. `rows_within`
looks at the first one, whether the file is one object around its rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

import numpy as np

from cambrian_gaze.data.media.unfinished import LFS, LFS_START
from cambrian_gaze.data.records.forms import TURN_KEYS

BLANK = b" \t\r\n\xef\xbb\xbf"
"""Bytes of which a blank line consists: white space, and the byte order mark."""

_ROW_LISTS = frozenset({"data", "rows", "samples", "annotations", "items", "examples", "train", "dataset", "records"})

_NEWLINE, _QUOTE, _BACKSLASH, _COMMA = b'\n"\\,'

_LOOKS = 64
"""Blank bytes at the start of a line that are passed over for all lines of a block at once."""


def _table(members: bytes) -> np.ndarray:
    table = np.zeros(256, bool)
    table[np.frombuffer(members, np.uint8)] = True
    return table


_IS_BLANK = _table(BLANK)
_IS_STRUCTURE = _table(b'"[]{},')
_STEP = np.zeros(256, np.int64)
_STEP[np.frombuffer(b"[{", np.uint8)] = 1
_STEP[np.frombuffer(b"]}", np.uint8)] = -1

_OTHER_FORMS = {
    b"\x1f\x8b": ("compressed by gzip", "unpack it: gunzip -k {file}"),
    b"\x28\xb5\x2f\xfd": ("compressed by Zstandard", "unpack it: zstd -d {file}"),
    b"\xfd7zXZ\0": ("compressed by xz", "unpack it: unxz -k {file}"),
    b"BZh": ("compressed by bzip2", "unpack it: bunzip2 -k {file}"),
    b"PK\x03\x04": ("a ZIP archive", "unpack it: unzip {file}"),
    b"\xff\xfe": ("text in UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 {file}"),
    b"\xfe\xff": ("text in UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 {file}"),
    b"PAR1": ("a Parquet file", "rename it so that it ends with .parquet"),
    b"ARROW1": ("an Arrow file", "rename it so that it ends with .arrow"),
    LFS_START: LFS,
}
"""First bytes of files that are taken for JSON Lines by mistake → what they are, and the remedy."""


def first_byte(blocks: Iterable[np.ndarray]) -> bytes:
    """The first byte that is not blank; empty where there is none."""
    for block in blocks:
        at = _first_content(block)
        if at is not None:
            return block[at : at + 1].tobytes()
    return b""


class DamagedArrayError(ValueError):
    """A JSON array whose elements cannot be told apart."""


class LineScanner:
    """Rows of a JSONL file: its lines, blank ones left out. A row reaches to the next row's offset, or to `end`.

    After `scan` is exhausted, `blanks` tells how many rows came before each blank line: from it follows a row's line.
    """

    def __init__(self) -> None:
        self.end = 0
        self.blanks = np.empty(0, np.int64)

    def scan(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """uint8 blocks of the file in order → int64 byte offsets at which rows start, an array per block."""
        base = rows = 0
        start, has_content = 0, False  # of the line that the last block broke off
        blanks = []
        for block in blocks:
            newlines = np.flatnonzero(block == _NEWLINE)
            if not len(newlines):
                has_content = has_content or _first_content(block) is not None
                base += len(block)
                continue
            starts = np.concatenate([[0], newlines[:-1] + 1])
            full = _have_content(block, starts, newlines)
            full[0] |= has_content
            starts += base
            starts[0] = start
            tail = int(newlines[-1]) + 1
            start, has_content = base + tail, _first_content(block[tail:]) is not None
            base += len(block)
            if not full.all():
                blanks.append(rows + np.cumsum(full)[~full])
                starts = starts[full]
            rows += len(starts)
            yield starts
        if has_content:
            yield np.array([start])
        self.end = base
        self.blanks = np.concatenate([self.blanks, *blanks])


class ArrayScanner:
    """Rows of a JSON array: the elements of the outermost `[…]`.

    A row reaches to one byte (a comma, the closing bracket) before the next row's offset, or before `end`. An array
    without elements gives one row, which is blank.
    """

    def __init__(self) -> None:
        self.end = 0
        self.blanks = np.empty(0, np.int64)

    def scan(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """uint8 blocks of the file in order → int64 byte offsets at which rows start, an array per block.

        Raises DamagedArrayError where the array does not end, or is followed by something else.
        """
        base = depth = rows = 0
        in_string = escaped = False
        for block in blocks:
            if self.end:
                _refuse(block, base)
                base += len(block)
                continue
            places = np.flatnonzero(_IS_STRUCTURE[block])
            kinds = block[places]
            quotes = kinds == _QUOTE
            escapes, escaped = _escaped(block, escaped)
            if len(escapes) and len(places):
                at = np.searchsorted(places, escapes).clip(max=len(places) - 1)
                quotes[at[places[at] == escapes]] = False
            inside = (np.cumsum(quotes) + in_string) & 1 == 1
            in_string = bool(inside[-1]) if len(inside) else in_string
            structure = ~inside & (kinds != _QUOTE)
            places, kinds = places[structure], kinds[structure]
            depths = depth + np.cumsum(_STEP[kinds])
            if len(closed := np.flatnonzero(depths == 0)):
                last = int(closed[0])
                self.end = base + int(places[last]) + 1
                _refuse(block[places[last] + 1 :], self.end)
                places, kinds, depths = places[:last], kinds[:last], depths[:last]
            begins = (kinds == _COMMA) & (depths == 1)
            if depth == 0 and len(begins):
                begins[0] = True  # the opening bracket
            depth = int(depths[-1]) if len(depths) else depth
            base_of_block, base = base, base + len(block)
            rows += int(begins.sum())
            yield base_of_block + places[begins] + 1
        if not self.end:
            raise DamagedArrayError(f"it ends within element {rows}, at byte {base}")


def _refuse(rest: np.ndarray, base: int) -> None:
    at = _first_content(rest)
    if at is not None:
        raise DamagedArrayError(f"it is closed before byte {base + at}, where more follows")


def _escaped(block: np.ndarray, first: bool) -> tuple[np.ndarray, bool]:
    """Places behind an odd number of backslashes; whether the byte after the block is one too. `first`: byte 0 is."""
    slashes = np.flatnonzero(block == _BACKSLASH)
    if first and len(slashes) and slashes[0] == 0:
        slashes = slashes[1:]
    own = np.zeros(int(first), np.int64)
    if not len(slashes):
        return own, False
    ends = np.flatnonzero(np.diff(slashes, append=-1) != 1)
    lengths = np.diff(ends, prepend=-1)
    after = slashes[ends[lengths % 2 == 1]] + 1
    beyond = bool(len(after)) and int(after[-1]) == len(block)
    return np.concatenate([own, after[:-1] if beyond else after]), beyond


def _have_content(block: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """For each line [start, stop) whether any of its bytes is not blank; a start may be its line's end."""
    full = ~_IS_BLANK[block[starts]]
    left = np.flatnonzero(~full)
    at = starts[left]
    for _ in range(_LOOKS):
        at = at + 1
        inside = at < stops[left]
        left, at = left[inside], at[inside]
        if not len(left):
            return full
        found = ~_IS_BLANK[block[at]]
        full[left[found]] = True
        left, at = left[~found], at[~found]
    for line, place in zip(left.tolist(), at.tolist(), strict=True):
        full[line] = _first_content(block[place : stops[line]]) is not None
    return full


def _first_content(block: np.ndarray) -> int | None:
    """Place of the first byte that is not blank."""
    for piece in (slice(0, 64), slice(64, None)):
        found = np.flatnonzero(~_IS_BLANK[block[piece]])
        if len(found):
            return int(found[0]) + (piece.start or 0)
    return None


def other_form(head: bytes) -> tuple[str, str] | None:
    """What a file is that is no JSON, by its first bytes, and how it becomes one; None for all others."""
    return next((said for mark, said in _OTHER_FORMS.items() if head.startswith(mark)), None)


def rows_within(head: bytes, whole: bool) -> str | None:
    """Of the first line of a file: the key of the list of rows that it holds; "{" where an object begins in it and goes
    on in the next line; None for a row. `whole`: the line ends in `head`."""
    text = head.decode("utf-8-sig", "replace").strip()
    if whole and re.fullmatch(r'\{\s*("[^"\\]*"\s*:\s*[\[{]*)?', text):
        key = re.search(r'"([^"\\]*)"\s*:\s*\[', text)
        return key[1] if key and key[1] not in TURN_KEYS else "{"
    if whole:
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(row, dict) or any(key in row for key in TURN_KEYS):
            return None
        lists = [k for k, v in row.items() if isinstance(v, list) and v and all(isinstance(i, dict) for i in v)]
        rows = [key for key in lists if any(turns in row[key][0] for turns in TURN_KEYS)]
        return next(iter([*rows, *(key for key in lists if len(row) == 1 or key in _ROW_LISTS)]), None)
    key = re.match(r'\{\s*"([^"\\]*)"\s*:\s*\[\s*\{', text)
    return key[1] if key and key[1] not in TURN_KEYS else None
