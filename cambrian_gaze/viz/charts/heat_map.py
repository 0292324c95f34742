"""A heat map of layers and heads, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cambrian_gaze.viz.charts.charts import nothing
from cambrian_gaze.viz.charts.drawing import colour, number, svg
from cambrian_gaze.viz.html import Column, Html, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL, _SMALL = (50, 32), (22, 18)
"""Pixels of a cell that has its number, and of one among too many."""
_NUMBERED = 16
"""With more columns, cells have no numbers."""
_LEFT, _TOP, _RIGHT, _BAR, _BOTTOM = 70, 42, 16, 240, 48


def heat_map(
    values: Sequence[Sequence[float]],
    *,
    label: str,
    names: tuple[str, str] = ("layer", "head"),
    chance: float | None = None,
    low: float = 0.0,
    high: float = 1.0,
) -> Html:
    """Cells with their numbers, rows x columns, called by `names`. With `chance`, colour grows from chance up to `high`
    in the accent colour, and from chance down to `low` in grey, so that what is no better than chance looks empty."""
    if not values or not values[0]:
        return nothing(label, "values")
    columns = len(values[0])
    if any(len(row) != columns for row in values):
        raise ValueError(f"heat map rows differ in length: {[len(row) for row in values]}")
    base = low if chance is None else chance
    if not low <= base < high:
        raise ValueError(f"chance must lie in [low, high): {low} <= {base} < {high}")
    wide, tall = _CELL if columns <= _NUMBERED else _SMALL
    width = _LEFT + max(columns * wide, _BAR) + _RIGHT
    height = _TOP + len(values) * tall + _BOTTOM

    def wash(value: float) -> tuple[str, float]:
        if value >= base:
            return colour("accent"), min(1.0, (value - base) / (high - base))
        return colour("below"), 0.6 * min(1.0, (base - value) / (base - low))

    def part(figure: Figure, top: int, wide: int, tall: int) -> Axes:
        return figure.add_axes((_LEFT / width, 1 - (top + tall) / height, wide / width, tall / height))

    def draw(figure: Figure) -> None:
        cells = part(figure, _TOP, columns * wide, len(values) * tall)
        cells.set(xlim=(0, columns), ylim=(len(values), 0))
        cells.set_title(names[1], loc="center", color=colour("quiet"), pad=22)
        every = math.ceil(28 / wide)
        cells.set_xticks([c + 0.5 for c in range(0, columns, every)], range(0, columns, every))
        cells.xaxis.tick_top()
        cells.set_yticks([r + 0.5 for r in range(len(values))], [f"{names[0]} {r}" for r in range(len(values))])
        for r, row in enumerate(values):
            for c, value in enumerate(row):
                known = math.isfinite(value)
                ground, opacity = wash(value) if known else ("none", 0.0)
                x, y, gap = c + 1 / wide, r + 1 / tall, (1 - 2 / wide, 1 - 2 / tall)
                cells.add_patch(_rectangle((x, y), *gap, colour("soft")))
                cells.add_patch(_rectangle((x, y), *gap, ground, opacity))
                if columns <= _NUMBERED:
                    ink = "white" if known and value >= base and opacity > 0.5 else colour("text")
                    place = {"ha": "center", "va": "center_baseline", "color": ink}
                    cells.text(c + 0.5, r + 0.5, f"{value:.2f}" if known else "–", **place)
        scale = part(figure, _TOP + len(values) * tall + 14, _BAR, 8)
        scale.set(xlim=(low, high), ylim=(0, 1), yticks=[])
        step = (high - low) / 40
        for place in range(40):
            ground, opacity = wash(low + (place + 0.5) * step)
            scale.add_patch(_rectangle((low + place * step, 0), step * 1.02, 1, ground, opacity))
        marks = {low: number(low), high: number(high)}
        if chance is not None:
            scale.axvline(chance, -0.4, 1.4, color=colour("text"), linewidth=1.5, clip_on=False)
            if chance - low < 0.3 * (high - low):
                del marks[low]
            marks[chance] = f"chance {number(chance)}"
        scale.set_xticks(list(marks), list(marks.values()))

    return svg(width, height, label, draw, layout=None)


def heat_numbers(values: Sequence[Sequence[float]], names: tuple[str, str] = ("layer", "head")) -> Table:
    """The cells as a table."""
    heads = [Column(f"{names[1]} {c}", True, "{:.2f}") for c in range(max(map(len, values), default=0))]
    rows = [[r, *(value if math.isfinite(value) else None for value in row)] for r, row in enumerate(values)]
    return Table([Column(names[0], True), *heads], rows)


def _rectangle(corner: tuple[float, float], wide: float, tall: float, ground: str, opacity: float = 1.0):
    from matplotlib.patches import Rectangle

    return Rectangle(corner, wide, tall, facecolor=ground, alpha=opacity, linewidth=0)
