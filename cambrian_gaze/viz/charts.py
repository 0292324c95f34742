"""Charts as inline SVG: lines, intervals and heat maps that follow the page's colours in light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) inside [low, high], about `count` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Logarithms of 1, 2 and 5 times powers of ten inside [low, high] (logarithms too); of powers alone if many."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1, 2, 5), (1,)):
        found = [power + math.log10(factor) for power in powers for factor in factors]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) <= 8:
            return found or ticks(low, high)
    return found[:: math.ceil(len(found) / 8)]


def number(value: float) -> str:
    """A short number: 12k, 0.25, 3."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.4g}"


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


def _svg(width: int, height: int, label: str, *children) -> Html:
    """A drawing that shrinks with the page, though not below what can be read: then its figure scrolls."""
    floor = f"min-width:{min(width, max(320, round(0.7 * width)))}px"
    return element(
        "svg", *children, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img", aria_label=label,
        style=floor,
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", class_: str | None = None, **more) -> Html:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=class_, **more)


def _line(x1: float, y1: float, x2: float, y2: float, **more) -> Html:
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", **more)


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
    series: Sequence[Series], *, label: str, x_label: str = "", y_label: str = "", width: int = 500, height: int = 270,
    y_min: float | None = None, y_max: float | None = None, log_y: bool = False,
) -> Html:
    """Lines over a common x axis, with a key above them. `label` is read out in place of the picture. The y axis
    spans the data unless `y_min` or `y_max` say otherwise; `log_y` wants positive values and leaves out others."""
    if log_y:
        series = [
            Series(s.name, s.x, [math.log10(v) if v > 0 else math.nan for v in s.y], s.step, s.faint) for s in series
        ]
        y_min, y_max = (None if bound is None else math.log10(bound) for bound in (y_min, y_max))
    points = [(a, b) for s in series for a, b in zip(s.x, s.y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if not points:
        return element("p", f"{label}: no points", class_="quiet")
    x0, x1 = min(a for a, _ in points), max(a for a, _ in points)
    low, high = min(b for _, b in points), max(b for _, b in points)
    margin = 0.04 * (high - low or abs(high) or 1.0)
    y0 = low - margin if y_min is None else y_min
    y1 = high + margin if y_max is None else y_max
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)

    left, right, top, bottom = 52, width - 24, 44, height - 40

    def px(x: float) -> float:
        return left + (x - x0) / (x1 - x0) * (right - left)

    def py(y: float) -> float:
        return bottom - (min(max(y, y0), y1) - y0) / (y1 - y0) * (bottom - top) if math.isfinite(y) else math.nan

    parts = [_text(2, top - 12, y_label, class_="quiet")]
    for tick in _log_ticks(y0, y1) if log_y else ticks(y0, y1):
        parts.append(_line(left, py(tick), right, py(tick), class_="rule"))
        parts.append(_text(left - 8, py(tick) + 4, number(10**tick if log_y else tick), anchor="end", class_="quiet"))
    for tick in ticks(x0, x1, 6):
        parts.append(_text(px(tick), bottom + 17, number(tick), anchor="middle", class_="quiet"))
    parts.append(_text((left + right) / 2, height - 5, x_label, anchor="middle", class_="quiet"))

    behind, before, place, colour = [], [], float(left), 0
    for one in series:
        stroke = f"var(--series-{colour % SERIES_COLOURS + 1})"
        drawn = [(px(a), py(b)) for a, b in thinned(one.x, one.y)]
        path = element(
            "path", element("title", one.name), d=_path(drawn, one.step), fill="none", stroke=stroke,
            stroke_width=1 if one.faint else 2, stroke_opacity=0.3 if one.faint else None, stroke_linejoin="round",
        )
        (behind if one.faint else before).append(path)
        if not one.faint:
            parts.append(_line(place, 11, place + 16, 11, stroke=stroke, stroke_width=3))
            parts.append(_text(place + 22, 15, one.name))
            place += 22 + 7.0 * len(one.name) + 22
            colour += 1
    return _svg(width, height, label, parts, behind, before)


def interval_chart(
    rows: Sequence[Interval], *, label: str, x_label: str = "", low: float = 0.0, high: float = 1.0,
    references: Mapping[str, float] | None = None, width: int = 500,
) -> Html:
    """One row per value: a dot with its interval on a common axis; `references` are named upright lines (chance). Rows
    with a number that is not finite are left out."""
    rows = [row for row in rows if all(map(math.isfinite, (row.value, row.low, row.high)))]
    if not rows:
        return element("p", f"{label}: no rows", class_="quiet")
    left = min(230, 20 + round(6.6 * max(len(row.label) for row in rows)))
    right, top, step = width - 58, 22, 27
    bottom = top + step * len(rows)

    def px(x: float) -> float:
        return left + (min(max(x, low), high) - low) / (high - low) * (right - left)

    parts = []
    for tick in ticks(low, high):
        parts.append(_line(px(tick), top, px(tick), bottom, class_="rule"))
        parts.append(_text(px(tick), bottom + 16, number(tick), anchor="middle", class_="quiet"))
    for name, value in (references or {}).items():
        parts.append(_line(px(value), top - 4, px(value), bottom, stroke="var(--quiet)", stroke_dasharray="4 3"))
        parts.append(_text(px(value), top - 9, name, anchor="middle", class_="quiet"))
    for place, row in enumerate(rows):
        y = top + step * (place + 0.5)
        colour = "var(--accent)" if row.strong else "var(--series-6)"
        weight = "600" if row.strong else None
        parts += [
            _text(left - 12, y + 4, row.label, anchor="end", font_weight=weight),
            _line(px(row.low), y, px(row.high), y, stroke=colour, stroke_width=4, stroke_opacity=0.45),
            element(
                "circle", element("title", f"{row.label}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"),
                cx=f"{px(row.value):.1f}", cy=f"{y:.1f}", r=4, fill=colour,
            ),
            _text(right + 12, y + 4, f"{row.value:.3f}", font_weight=weight),
        ]
    parts.append(_text((left + right) / 2, bottom + 34, x_label, anchor="middle", class_="quiet"))
    return _svg(width, bottom + 40, label, parts)


def heat_map(
    values: Sequence[Sequence[float]], *, label: str, row_name: str = "layer", column_name: str = "head",
    chance: float | None = None, low: float = 0.0, high: float = 1.0, cell: tuple[int, int] = (50, 32),
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

    parts = [_text(left + columns * wide / 2, 14, column_name, anchor="middle", class_="quiet")]
    parts += [
        _text(left + (c + 0.5) * wide - 1, 34, str(c), anchor="middle", class_="quiet") for c in range(columns)
    ]
    for r, row in enumerate(values):
        y = top + r * tall
        parts.append(_text(left - 10, y + tall / 2 + 3, f"{row_name} {r}", anchor="end", class_="quiet"))
        for c, value in enumerate(row):
            x = left + c * wide
            known = math.isfinite(value)
            shown = f"{value:.2f}" if known else "–"
            parts += block(x, y, wide, tall, value, f"{row_name} {r}, {column_name} {c}: {shown}", 2)
            if wide >= 34:
                dark = known and value >= base and wash(value)[1] > 0.5
                class_ = "on" if dark else None
                parts.append(_text(x + wide / 2 - 1, y + tall / 2 + 3, shown, anchor="middle", class_=class_))

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
            parts.append(_line(x, bar_y - 3, x, bar_y + 11, stroke="var(--text)", stroke_width=1.5))
            anchor = "start"
        elif chance is not None and value == low:
            anchor = "end"
        parts.append(_text(x, bar_y + 24, name, anchor=anchor, class_="quiet"))
    return _svg(max(left + columns * wide, left + bar_w) + 12, bar_y + 32, label, parts)
