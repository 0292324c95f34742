"""A sheet: blocks of text and strips of pictures below each other, and where everything on it lies.

Letters have the size that can be read when the sheet is printed as wide as a column of a two-column paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cambrian_gaze.data.media.aspect import Pixels
from cambrian_gaze.viz import canvas
from cambrian_gaze.viz.render import MAX_PIXELS
from cambrian_gaze.viz.trace_data import TraceItem

COLUMN = 237.0
"""Points: width of a column of a two-column paper, 3.3 inches."""
PIXELS = 990
"""Of such a column at 300 dpi: small pictures are enlarged until a sheet has about so many."""
TEXT, NOTE = 7.0, 6.0
"""Points of letters on a sheet of that width: of texts, and of what stands above and below pictures."""
LEADING = 1.3
"""From one line to the next, in heights of letters."""


@dataclass(frozen=True)
class Shot:
    """A picture and what is drawn on it. Places are pixels (x0, y0, x1, y1) of the item's own picture, ends exclusive;
    empty ones are left out."""

    item: TraceItem
    frame: int
    light: Sequence[tuple[Pixels, float]] = ()
    """How much of its light a place keeps, in [0, 1]."""
    wash: Sequence[tuple[Pixels, float]] = ()
    """Weights in [0, 1]; 1 has the full colour."""
    boxes: Sequence[Pixels] = ()
    """Outlined in red."""


@dataclass(frozen=True)
class Span:
    """Some words of a text."""

    text: str
    quiet: bool = False
    wrong: bool = False
    """Red and underlined."""


@dataclass(frozen=True)
class Text:
    """Words over the whole width, wrapped."""

    spans: Sequence[Span]
    small: bool = False
    lines: int | None = None
    """At most so many; the last then ends with an ellipsis."""


@dataclass(frozen=True)
class Strip:
    """Pictures beside each other, with words above and below each."""

    shots: Sequence[Shot]
    above: Sequence[str] = ()
    below: Sequence[str] = ()


@dataclass(frozen=True)
class Placed:
    """A picture on the sheet, in its pixels."""

    x: int
    y: int
    width: int
    height: int
    shot: Shot


@dataclass(frozen=True)
class Line:
    """Words beside each other on one base line: (x, width, words) of each."""

    y: int
    size: int
    words: Sequence[tuple[float, float, Span]]


@dataclass
class Layout:
    """Where everything lies, in pixels of a sheet."""

    width: int
    height: int
    letters: int
    """Height of the letters of texts; those of notes are smaller by `NOTE / TEXT`."""
    stroke: int
    """Width of outlines."""
    pictures: list[Placed] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


@dataclass(frozen=True)
class Sheet:
    """A figure of texts and pictures."""

    blocks: Sequence[Text | Strip]


def layout(sheet: Sheet, shown: Callable[[str], str], side: int | None = None) -> Layout:
    """Where everything lies.

    Args:
        shown: turns words into what is written.
        side: longer side of a picture in pixels; default: its own resolution, a small one enlarged by a whole factor.

    Raises: ValueError for a sheet that is too large or has no picture.
    """
    if side is not None and side < 1:
        raise ValueError(f"side must be at least 1 pixel, not {side}")
    strips = [block for block in sheet.blocks if isinstance(block, Strip)]
    columns = max((len(strip.shots) for strip in strips), default=0)
    if not columns:
        raise ValueError("there is no picture to show")
    sizes = {shot.item.size: panel_size(shot.item.size, columns, side) for strip in strips for shot in strip.shots}
    cell = max(width for width, _ in sizes.values())
    gap = max(4, round(0.03 * cell))
    width = columns * (cell + gap) + gap
    made = Layout(width, gap, max(11, math.ceil(width * TEXT / COLUMN)), max(2, round(width / 400)))
    small = max(10, math.ceil(width * NOTE / COLUMN))
    for block in sheet.blocks:
        if isinstance(block, Text):
            size = small if block.small else made.letters
            _write(made, block.spans, (gap, width - 2 * gap), size, shown, limit=block.lines)
            made.height += round(0.4 * size)
            continue
        _notes(made, block.above, cell, gap, small, shown)
        if block.above:
            made.height += round(0.3 * small)
        y, tallest = made.height, 0
        for place, shot in enumerate(block.shots):
            w, h = sizes[shot.item.size]
            made.pictures.append(Placed(gap + place * (cell + gap) + (cell - w) // 2, y, w, h, shot))
            tallest = max(tallest, h)
        made.height = y + tallest + round(0.3 * small)
        _notes(made, block.below, cell, gap, small, shown)
        made.height += gap
    if made.width * made.height > MAX_PIXELS:
        raise ValueError(
            f"the figure would be {made.width}x{made.height} pixels; show fewer pictures, or smaller ones (side)"
        )
    return made


def panel_size(own: tuple[int, int], columns: int, side: int | None) -> tuple[int, int]:
    """Width and height of a picture on a sheet of so many columns."""
    scale = max(1, PIXELS // (columns * max(own))) if side is None else side / max(own)
    return max(1, round(own[0] * scale)), max(1, round(own[1] * scale))


def scaled(places: Sequence[Pixels], own: tuple[int, int], size: tuple[int, int]) -> list[Pixels]:
    """Places of a picture in one of another size; neighbours share their edge there, too."""
    (w, h), (wide, high) = own, size
    xs, ys = wide / w, high / h
    return [(round(x0 * xs), round(y0 * ys), round(x1 * xs), round(y1 * ys)) for x0, y0, x1, y1 in places]


def _notes(made: Layout, notes: Sequence[str], cell: int, gap: int, size: int, shown: Callable[[str], str]) -> None:
    """Wrapped words in the columns of a strip; the sheet grows by the longest."""
    top = made.height
    bottom = top
    for place, note in enumerate(notes):
        made.height = top
        _write(made, [Span(note, quiet=True)], (gap + place * (cell + gap), cell), size, shown, middle=True)
        bottom = max(bottom, made.height)
    made.height = bottom


def _write(
    made: Layout,
    spans: Sequence[Span],
    room: tuple[int, int],
    size: int,
    shown: Callable[[str], str],
    *,
    limit: int | None = None,
    middle: bool = False,
) -> None:
    """Lines of words in `room` (x, width); the sheet grows by them."""
    face = canvas.font(size)
    left, width = room
    space = max(face.getlength(" "), 0.3 * size)  # hinting leaves small letters next to none
    lines: list[list[tuple[float, float, Span]]] = [[]]
    x = 0.0
    for span in spans:
        for word in span.text.split():
            text = canvas.shorten(shown(word), face, width)
            long = face.getlength(text)
            if lines[-1] and x + long > width:
                lines.append([])
                x = 0.0
            lines[-1].append((x, long, Span(text, span.quiet, span.wrong)))
            x += long + space
    if limit is not None and len(lines) > limit:
        del lines[limit:]
        while lines[-1] and lines[-1][-1][0] + lines[-1][-1][1] + face.getlength("...") > width:
            lines[-1].pop()
        x, long, last = lines[-1].pop() if lines[-1] else (0.0, 0.0, Span(""))
        lines[-1].append((x, long + face.getlength("..."), Span(last.text + "...", last.quiet, last.wrong)))
    for line in filter(None, lines):
        made.height += round(LEADING * size)
        shift = left + ((width - line[-1][0] - line[-1][1]) / 2 if middle else 0)
        base = made.height - round(0.3 * size)
        made.lines.append(Line(base, size, [(shift + x, long, word) for x, long, word in line]))
