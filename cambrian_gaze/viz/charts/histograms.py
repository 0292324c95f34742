"""Histograms as a PNG, drawn with Pillow alone: for folders and machines where no page is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from cambrian_gaze.viz import canvas
from cambrian_gaze.viz.charts.axes import number, ticks

_SCALE = 2
"""Pixels per unit of the layout, so that text is crisp on dense screens."""
_PANEL = (520, 250)
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 56, 44
_EDGE = 22
_BAR = (37, 99, 235)
_MARK = (224, 112, 11)


@dataclass(frozen=True)
class Histogram:
    """One panel: how many values fall between neighbouring edges."""

    title: str
    edges: Sequence[float]
    """Ascending, one more than `counts`; bars are drawn equally wide."""
    counts: Sequence[int]
    x_label: str = ""
    note: str = ""
    """A line below the title, such as median and extremes."""
    names: Sequence[str] | None = None
    """A label below each bar, some of them empty; by default numbers below the edges, as many as there is room for."""
    marks: Mapping[str, float] = field(default_factory=dict)
    """Upright lines at values, with their names."""

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1 or not self.counts:
            raise ValueError(f"histogram {self.title!r}: {len(self.edges)} edges for {len(self.counts)} bars")


def draw_histograms(panels: Sequence[Histogram], title: str, subtitle: str = "", columns: int = 2) -> Image.Image:
    """The panels side by side below a title. Raises ValueError without a panel."""
    if not panels:
        raise ValueError("no histogram to draw: there are no values")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    head = 74 if subtitle else 54
    size = (_EDGE * 2 + columns * _PANEL[0] + (columns - 1) * _EDGE, head + rows * (_PANEL[1] + _EDGE))
    paper = Image.new("RGB", (size[0] * _SCALE, size[1] * _SCALE), canvas.PAPER)
    pen = _Pen(ImageDraw.Draw(paper))
    pen.text((_EDGE, 16), title, 22, width=size[0] - 2 * _EDGE)
    if subtitle:
        pen.text((_EDGE, 45), subtitle, 13, fill=canvas.QUIET, width=size[0] - 2 * _EDGE)
    for place, panel in enumerate(panels):
        row, column = divmod(place, columns)
        _draw_panel(pen, panel, _EDGE + column * (_PANEL[0] + _EDGE), head + row * (_PANEL[1] + _EDGE))
    return paper


class _Pen:
    """Draws in units of the layout."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self.draw = draw

    def text(self, xy: tuple[float, float], text: str, size: int, **options) -> None:
        if options.get("width"):
            options["width"] *= _SCALE
        canvas.write(self.draw, (xy[0] * _SCALE, xy[1] * _SCALE), text, size * _SCALE, **options)

    def line(self, x0: float, y0: float, x1: float, y1: float, fill, width: float = 1) -> None:
        self.draw.line([v * _SCALE for v in (x0, y0, x1, y1)], fill=fill, width=round(width * _SCALE))

    def bar(self, x0: float, y0: float, x1: float, y1: float, fill) -> None:
        x0, y0, x1, y1 = (round(v * _SCALE) for v in (x0, y0, x1, y1))
        self.draw.rectangle((x0, min(y0, y1 - 2), max(x0, x1 - 1), y1 - 1), fill=fill)


def _draw_panel(pen: _Pen, panel: Histogram, x: float, y: float) -> None:
    left, right, top, bottom = x + _LEFT, x + _PANEL[0] - _RIGHT, y + _TOP, y + _PANEL[1] - _BOTTOM
    pen.text((x, y), panel.title, 15, width=_PANEL[0])
    pen.text((x, y + 21), panel.note, 12, fill=canvas.QUIET, width=_PANEL[0])
    highest = max(*panel.counts, 1) * 1.06
    for tick in (tick for tick in ticks(0, highest, 4) if tick == int(tick)):
        level = bottom - tick / highest * (bottom - top)
        pen.line(left, level, right, level, canvas.LINE)
        pen.text((left - 8, level), number(tick), 11, fill=canvas.QUIET, anchor="rm")
    step = (right - left) / len(panel.counts)
    for place, count in enumerate(panel.counts):
        if count:
            height = count / highest * (bottom - top)
            pen.bar(left + step * place + 0.5, bottom - height, left + step * (place + 1) - 0.5, bottom, _BAR)
    pen.line(left, bottom, right, bottom, canvas.QUIET)
    every = -(-len(panel.edges) * 52 // int(right - left))
    labels = [(place, number(edge)) for place, edge in enumerate(panel.edges)][::every]
    if panel.names is not None:
        labels = [(place + 0.5, name) for place, name in enumerate(panel.names) if name]
    for place, name in labels:
        pen.text((left + step * place, bottom + 6), name, 11, fill=canvas.QUIET, anchor="ma")
    pen.text(((left + right) / 2, bottom + 25), panel.x_label, 12, fill=canvas.QUIET, anchor="ma")
    for name, value in panel.marks.items():
        if (at := _position(panel.edges, value)) is not None:
            pen.line(left + step * at, top - 6, left + step * at, bottom, _MARK, 1.5)
            anchor = "rs" if at > 0.6 * len(panel.counts) else "ls"
            pen.text((left + step * at + (-5 if anchor == "rs" else 5), top + 3), name, 11, fill=_MARK, anchor=anchor)


def _position(edges: Sequence[float], value: float) -> float | None:
    """Where a value lies, in bars from the left; None outside."""
    for place, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        if low <= value <= high:
            return place + (value - low) / (high - low)
    return None
