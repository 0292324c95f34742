"""Rows of dots on a common axis, for ratios, and bars, for shares and rates: charts of the benchmarks' pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cambrian_gaze.viz.charts.axes import Scale, line, number, svg, text
from cambrian_gaze.viz.html import Html, element

ROW = 21
"""Pixels from one row to the next."""


@dataclass(frozen=True)
class Mark:
    """How the dots of one name look: colour, and hollow or filled, so that neither alone tells them apart."""

    stroke: str
    hollow: bool = False
    square: bool = False

    def at(self, x: float, y: float, title: str | None = None) -> Html:
        """The mark around a point."""
        look = dict(stroke=self.stroke, stroke_width=2, fill="var(--surface)" if self.hollow else self.stroke)
        inside = None if title is None else element("title", title)
        if self.square:
            return element("rect", inside, x=f"{x - 4:.1f}", y=f"{y - 4:.1f}", width=8, height=8, **look)
        return element("circle", inside, cx=f"{x:.1f}", cy=f"{y:.1f}", r=4.5, **look)


@dataclass(frozen=True)
class Dots:
    """One row: its label, and values by the names of `dot_chart`'s marks."""

    label: str
    values: Mapping[str, float] = field(default_factory=dict)


def dot_chart(
    rows: Sequence[Dots],
    marks: Mapping[str, Mark],
    *,
    label: str,
    sides: tuple[str, str],
    x_label: str = "",
    width: int = 500,
) -> Html:
    """Ratios on a logarithmic axis with an upright line at 1; `sides` says what lies left and right of it. Values that
    are not positive are left out."""
    values = [v for row in rows for v in row.values.values() if v > 0 and math.isfinite(v)]
    if not values:
        return element("p", f"{label}: no values", class_="quiet")
    left, right, top = 16 + round(6.9 * max(len(row.label) for row in rows)), width - 20, 62
    bottom = top + ROW * len(rows)
    px = Scale.around([*values, 0.5, 1.25], left, right, log=True, margin=0.04)
    parts: list[Html] = []
    for tick in px.ticks():
        parts.append(line(px(tick), top, px(tick), bottom, class_="rule"))
        parts.append(text(px(tick), bottom + 17, f"{number(tick)}×", anchor="middle", class_="quiet"))
    one = px(1)
    parts.append(line(one, top - 6, one, bottom, stroke="var(--text)", stroke_width=1.5))
    slower, faster = sides
    if one - left > 7.0 * len(slower):
        parts.append(text(one - 8, top - 10, f"← {slower}", anchor="end", class_="quiet"))
    if right - one > 7.0 * len(faster):
        parts.append(text(one + 8, top - 10, f"{faster} →", class_="quiet"))
    place = 8.0
    for name, mark in marks.items():
        if any(name in row.values for row in rows):
            parts += [mark.at(place, 14), text(place + 12, 18, name)]
            place += 12 + 7.2 * len(name) + 20
    for at, row in enumerate(rows):
        y = top + ROW * (at + 0.5)
        parts.append(text(left - 12, y + 4, row.label, anchor="end"))
        for place_of_mark, (name, mark) in enumerate(marks.items()):  # a little apart, so that none hides another
            if row.values.get(name, 0) > 0:
                below = 3 * (place_of_mark - (len(marks) - 1) / 2)
                title = f"{row.label}, {name}: {row.values[name]:.2f}×"
                parts.append(mark.at(px(row.values[name]), y + below, title))
    parts.append(text((left + right) / 2, bottom + 36, x_label, anchor="middle", class_="quiet"))
    return svg(width, bottom + 44, label, parts)


def bar_chart(
    bars: Sequence[tuple[str, float, str]],
    *,
    label: str,
    x_label: str = "",
    form: Callable[[float], str] = number,
    width: int = 500,
) -> Html:
    """Bars from zero on, one below the other: (label, value, colour). The values stand at their ends, by `form`."""
    bars = [bar for bar in bars if math.isfinite(bar[1]) and bar[1] >= 0]
    if not bars:
        return element("p", f"{label}: no values", class_="quiet")
    left, right, top, step = 16 + round(6.9 * max(len(name) for name, _, _ in bars)), width - 76, 12, 40
    bottom = top + step * len(bars)
    px = Scale(0.0, max(value for _, value, _ in bars) or 1.0, left, right)
    parts: list[Html] = []
    for at, (name, value, colour) in enumerate(bars):
        y, long = top + step * at, max(px(value) - left, 1.5)
        parts += [
            text(left - 12, y + step / 2 + 4, name, anchor="end"),
            element("rect", x=left, y=y + 7, width=f"{long:.1f}", height=step - 14, rx=2, fill=colour),
            text(left + long + 8, y + step / 2 + 4, form(value), font_weight=600),
        ]
    parts.append(line(left, top, left, bottom, stroke="var(--quiet)"))
    parts.append(text((left + right) / 2, bottom + 22, x_label, anchor="middle", class_="quiet"))
    return svg(width, bottom + 32, label, parts)
