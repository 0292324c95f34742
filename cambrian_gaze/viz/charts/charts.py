"""Charts as inline SVG: lines, intervals and heat maps that follow the page's colours in light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cambrian_gaze.viz.charts.axes import Scale, line, number, svg, text, ticks
from cambrian_gaze.viz.html import Html, element

SERIES_COLOURS = 6
POINTS = 400  # a longer series is thinned to the lowest and highest point of each bucket


@dataclass(frozen=True)
class Series:
    """One line of a chart. Points that are not finite leave a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    step: bool = False
    """Draws stairs: a value holds until the next point."""
    faint: bool = False
    """Thin and pale, for raw values behind a smoothed line. It has no place in the key and takes the colour of the
    series that follows."""
    stroke: str | None = None
    """Its colour, by default the next of the page's colours for series."""
    guide: bool = False
    """Thin and dashed, for a slope to compare with."""

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"series {self.name!r} has {len(self.x)} x values and {len(self.y)} y values")


@dataclass(frozen=True)
class Interval:
    """One row of an interval chart: a value and the ends of its interval."""

    label: str
    value: float
    low: float
    high: float
    strong: bool = False


def thinned(x: Sequence[float], y: Sequence[float], points: int = POINTS) -> list[tuple[float, float]]:
    """At most about `points` points: of each bucket its lowest and its highest, in order; ends and gaps kept."""
    pairs = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
    if len(pairs) <= points:
        return pairs
    bucket = math.ceil(2 * len(pairs) / points)
    kept = {0, len(pairs) - 1}
    for start in range(0, len(pairs), bucket):
        places = range(start, min(start + bucket, len(pairs)))
        finite = [place for place in places if math.isfinite(pairs[place][1])]
        kept.update(place for place in places if not math.isfinite(pairs[place][1]))
        if finite:
            kept.add(min(finite, key=lambda place: pairs[place][1]))
            kept.add(max(finite, key=lambda place: pairs[place][1]))
    return [pairs[place] for place in sorted(kept)]


def _path(points: Sequence[tuple[float, float]], step: bool) -> str:
    """SVG path data; a point with a NaN lifts the pen."""
    parts, pen, last_y = [], False, 0.0
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            pen = False
            continue
        if step and pen:
            parts.append(f"L{x:.1f},{last_y:.1f}")
        parts.append(f"{'L' if pen else 'M'}{x:.1f},{y:.1f}")
        pen, last_y = True, y
    return "".join(parts)


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str = "",
    y_label: str = "",
    width: int = 500,
    height: int = 270,
    y_min: float | None = None,
    y_max: float | None = None,
    log_y: bool = False,
    log_x: bool = False,
    x_ticks: Sequence[float] | None = None,
    x_format: Callable[[float], str] = number,
    y_format: Callable[[float], str] = number,
    named_at_ends: bool = False,
) -> Html:
    """Lines over a common x axis, with a key above them. `label` is read out in place of the picture. The y axis
    spans the data unless `y_min` or `y_max` say otherwise; a logarithmic axis wants positive values and leaves out
    others. `named_at_ends`: each line's name stands at its last point in place of the key, and points have dots, which
    suits a few lines of a few points."""
    points = [
        (a, b)
        for s in series
        for a, b in zip(s.x, s.y, strict=True)
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)
    ]
    if not points:
        return element("p", f"{label}: no points", class_="quiet")
    names = max(len(s.name) for s in series) if named_at_ends else 0
    right, top, bottom = width - 24 - round(7.2 * names), 30 if named_at_ends else 44, height - 40
    py = Scale.around([b for _, b in points], bottom, top, log=log_y, margin=0.04, low=y_min, high=y_max)
    left = max(52, 12 + round(6.9 * max(len(y_format(tick)) for tick in py.ticks())))
    px = Scale.around([a for a, _ in points], left, right, log=log_x, margin=0.03 * named_at_ends)

    parts = [text(2, top - 12, y_label, class_="quiet")]
    for tick in py.ticks():
        parts.append(line(left, py(tick), right, py(tick), class_="rule"))
        parts.append(text(left - 8, py(tick) + 4, y_format(tick), anchor="end", class_="quiet"))
    for tick in px.ticks(6) if x_ticks is None else x_ticks:
        parts.append(text(px(tick), bottom + 17, x_format(tick), anchor="middle", class_="quiet"))
    parts.append(text((left + right) / 2, height - 5, x_label, anchor="middle", class_="quiet"))

    behind, before, place, colour, ends = [], [], float(left), 0, []
    for one in series:
        stroke = one.stroke or f"var(--series-{colour % SERIES_COLOURS + 1})"
        drawn = [(px(a), py(b)) for a, b in thinned(one.x, one.y)]
        path = element(
            "path",
            element("title", one.name),
            d=_path(drawn, one.step),
            fill="none",
            stroke=stroke,
            stroke_width=1 if one.faint or one.guide else 2,
            stroke_opacity=0.3 if one.faint else None,
            stroke_linejoin="round",
            stroke_dasharray="4 4" if one.guide else None,
        )
        (behind if one.faint or one.guide else before).append(path)
        if one.faint:
            continue
        colour += one.stroke is None
        if not named_at_ends:
            parts.append(line(place, 11, place + 16, 11, stroke=stroke, stroke_width=3))
            parts.append(text(place + 22, 15, one.name))
            place += 22 + 7.0 * len(one.name) + 22
            continue
        seen = [(x, y) for x, y in drawn if math.isfinite(x) and math.isfinite(y)]
        if not one.guide:
            before += [element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.5, fill=stroke) for x, y in seen]
        if seen:
            ends.append((seen[-1][1] + 4, one, stroke))
    ends.sort(key=lambda end: end[0])
    for y, (_, one, stroke) in zip(spread([y for y, _, _ in ends], 15, top, bottom + 4), ends, strict=True):
        before.append(text(right + 10, y, one.name, style=f"fill:{stroke}", font_weight=None if one.guide else 600))
    return svg(width, height, label, parts, behind, before)


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places moved as little as needed for `gap` between neighbours, inside [low, high] while they fit."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap if moved else low))
    limit = high
    for at in range(len(moved) - 1, -1, -1):
        moved[at] = min(moved[at], limit)
        limit = moved[at] - gap
    return moved


def interval_chart(
    rows: Sequence[Interval],
    *,
    label: str,
    x_label: str = "",
    low: float = 0.0,
    high: float = 1.0,
    references: Mapping[str, float] | None = None,
    width: int = 500,
) -> Html:
    """One row per value: a dot with its interval on a common axis; `references` are named upright lines (chance). Rows
    with a number that is not finite are left out. Long labels make it wider than `width`."""
    rows = [row for row in rows if all(map(math.isfinite, (row.value, row.low, row.high)))]
    if not rows:
        return element("p", f"{label}: no rows", class_="quiet")
    left = 20 + round(6.6 * max(len(row.label) for row in rows))
    width = max(width, left + 270)
    right, top, step = width - 58, 22, 27
    bottom = top + step * len(rows)

    def px(x: float) -> float:
        return left + (min(max(x, low), high) - low) / (high - low) * (right - left)

    parts = []
    for tick in ticks(low, high):
        parts.append(line(px(tick), top, px(tick), bottom, class_="rule"))
        parts.append(text(px(tick), bottom + 16, number(tick), anchor="middle", class_="quiet"))
    for name, value in (references or {}).items():
        parts.append(line(px(value), top - 4, px(value), bottom, stroke="var(--quiet)", stroke_dasharray="4 3"))
        parts.append(text(px(value), top - 9, name, anchor="middle", class_="quiet"))
    for place, row in enumerate(rows):
        y = top + step * (place + 0.5)
        colour = "var(--accent)" if row.strong else "var(--series-6)"
        weight = "600" if row.strong else None
        parts += [
            text(left - 12, y + 4, row.label, anchor="end", font_weight=weight),
            line(px(row.low), y, px(row.high), y, stroke=colour, stroke_width=4, stroke_opacity=0.45),
            element(
                "circle",
                element("title", f"{row.label}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"),
                cx=f"{px(row.value):.1f}",
                cy=f"{y:.1f}",
                r=4,
                fill=colour,
            ),
            text(right + 12, y + 4, f"{row.value:.3f}", font_weight=weight),
        ]
    parts.append(text((left + right) / 2, bottom + 34, x_label, anchor="middle", class_="quiet"))
    return svg(width, bottom + 40, label, parts)


def heat_map(
    values: Sequence[Sequence[float]],
    *,
    label: str,
    row_name: str = "layer",
    column_name: str = "head",
    chance: float | None = None,
    low: float = 0.0,
    high: float = 1.0,
    cell: tuple[int, int] = (50, 32),
) -> Html:
    """Cells with their numbers, rows x columns. With `chance`, colour grows from chance up to `high` in the accent
    colour, and from chance down to `low` in grey, so that what is no better than chance looks empty."""
    if not values or not values[0]:
        return element("p", f"{label}: no values", class_="quiet")
    columns = len(values[0])
    if any(len(row) != columns for row in values):
        raise ValueError(f"heat map rows differ in length: {[len(row) for row in values]}")
    base = low if chance is None else chance
    if not low <= base < high:
        raise ValueError(f"chance must lie in [low, high): {low} <= {base} < {high}")
    wide, tall = cell
    left, top = 30 + 7 * len(row_name), 42

    def wash(value: float) -> tuple[str, float]:
        if value >= base:
            return "var(--accent)", min(1.0, (value - base) / (high - base))
        return "var(--below)", 0.6 * min(1.0, (base - value) / (base - low))

    def block(x: float, y: float, w: float, h: float, value: float, title: str, gap: float) -> list[Html]:
        where = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{w - gap:.1f}", "height": f"{h - gap:.1f}"}
        radius = 4 if gap else 0
        colour, opacity = wash(value) if math.isfinite(value) else ("none", 0.0)
        return [
            element("rect", **where, rx=radius, class_="surface"),
            element("rect", element("title", title), **where, rx=radius, fill=colour, fill_opacity=f"{opacity:.3f}"),
        ]

    parts = [text(left + columns * wide / 2, 14, column_name, anchor="middle", class_="quiet")]
    parts += [text(left + (c + 0.5) * wide - 1, 34, str(c), anchor="middle", class_="quiet") for c in range(columns)]
    for r, row in enumerate(values):
        y = top + r * tall
        parts.append(text(left - 10, y + tall / 2 + 3, f"{row_name} {r}", anchor="end", class_="quiet"))
        for c, value in enumerate(row):
            x = left + c * wide
            known = math.isfinite(value)
            shown = f"{value:.2f}" if known else "–"
            parts += block(x, y, wide, tall, value, f"{row_name} {r}, {column_name} {c}: {shown}", 2)
            if wide >= 34:
                dark = known and value >= base and wash(value)[1] > 0.5
                class_ = "on" if dark else None
                parts.append(text(x + wide / 2 - 1, y + tall / 2 + 3, shown, anchor="middle", class_=class_))

    bar_y, bar_w, pieces = top + len(values) * tall + 12, max(160, min(columns * wide, 240)), 40
    for piece in range(pieces):
        value = low + (high - low) * (piece + 0.5) / pieces
        parts += block(left + piece * bar_w / pieces, bar_y, bar_w / pieces + 0.5, 8, value, number(value), 0)
    marks = {low: number(low), high: number(high)}
    if chance is not None:
        marks[chance] = f"chance {number(chance)}" if chance - low > 0.08 * (high - low) else "chance"
    for value, name in marks.items():
        x = left + (value - low) / (high - low) * bar_w
        anchor = "start" if value == low and value != chance else "end" if value == high else "middle"
        if value == chance:
            parts.append(line(x, bar_y - 3, x, bar_y + 11, stroke="var(--text)", stroke_width=1.5))
            anchor = "start"
        elif chance is not None and value == low:
            anchor = "end"
        parts.append(text(x, bar_y + 24, name, anchor=anchor, class_="quiet"))
    return svg(max(left + columns * wide, left + bar_w) + 12, bar_y + 32, label, parts)
