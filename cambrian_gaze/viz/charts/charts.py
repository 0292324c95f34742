"""Charts for pages: lines, intervals and heat maps, as inline SVG, and the numbers that they show as tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cambrian_gaze.viz.charts.drawing import SERIES, colour, number, plain, svg
from cambrian_gaze.viz.html import Column, Html, Table, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 400  # a longer series is thinned to the lowest and highest point of each bucket
ROWS = 12
"""Rows of the table of a line chart."""
ABOVE = ("data", "axes fraction")
BESIDE = ("axes fraction", "data")
"""Where a note stands: one coordinate as the data, the other from one end of the chart (0) to the other (1)."""


@dataclass(frozen=True)
class Series:
    """One line of a chart. Points that are not finite leave a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    step: bool = False
    """Draws stairs: a value holds until the next point."""
    stroke: str | None = None
    """Its colour, by default the next of the page's colours for series."""
    guide: bool = False
    """Thin and dashed, for a slope to compare with."""

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"series {self.name!r} has {len(self.x)} x values and {len(self.y)} y values")


@dataclass(frozen=True)
class Axis:
    """What one axis says and spans."""

    label: str = ""
    low: float | None = None
    high: float | None = None
    """Ends that the values do not decide."""
    log: bool = False
    """A logarithmic axis leaves out what is not positive."""
    ticks: Sequence[float] | None = None
    form: Callable[[float], str] = number

    def takes(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)


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


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x: Axis = Axis(),
    y: Axis = Axis(),
    size: tuple[int, int] = (450, 260),
    named_at_ends: bool = False,
) -> Html:
    """Lines over a common x axis, with a key above them. `label` is read out in place of the picture.

    `named_at_ends`: each line's name stands at its last point in place of the key, and points have dots, which suits a
    few lines of a few points.
    """
    drawn = [[(a, b if x.takes(a) and y.takes(b) else math.nan) for a, b in thinned(s.x, s.y)] for s in series]
    points = [(a, b) for line in drawn for a, b in line if math.isfinite(b)]
    if not points:
        return nothing(label, "points")
    width, height = size
    key = key_rows([one.name for one in series], width)
    if not named_at_ends:
        height += 18 * (key - 1)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        handles, ends, coloured = [], [], 0
        for one, line in zip(series, drawn, strict=True):
            stroke = one.stroke or SERIES[coloured % len(SERIES)]
            dashed = one.guide or coloured >= 3 or line in drawn[: len(handles)]  # what is below shows through
            coloured += one.stroke is None
            (handle,) = axes.plot(
                *zip(*line, strict=True),
                color=colour(stroke),
                linestyle="--" if dashed else "-",
                linewidth=1 if one.guide else 2,
                drawstyle="steps-post" if one.step else "default",
                marker="o" if _alone(line) or named_at_ends and not one.guide else None,
                clip_on=y.low is not None or y.high is not None,
                zorder=1 if one.guide else 2,
            )
            handles.append(handle)
            last = next(((a, b) for a, b in reversed(line) if math.isfinite(b)), None)
            if last is not None:
                ends.append((last, one, stroke))
        _span(axes, "x", x, [a for a, _ in points], 0.03 if named_at_ends else 0.0)
        _span(axes, "y", y, [b for _, b in points], 0.04)
        axes.grid(axis="y", color=colour("line"), linewidth=1)
        axes.set_title(plain(y.label), color=colour("quiet"))
        axes.set_xlabel(plain(x.label))
        if named_at_ends:
            _name_ends(axes, ends, 15 / (height - 85))
        else:
            names = [plain(one.name) for one in series]
            names = ["\u200b" + name if name.startswith("_") else name for name in names]  # else it is left out
            figure.legend(handles, names, loc="outside upper left", ncols=math.ceil(len(names) / key))

    return svg(width, height, label, draw)


def interval_chart(
    rows: Sequence[Interval],
    *,
    label: str,
    x: Axis = Axis(low=0.0, high=1.0),
    references: Mapping[str, float] | None = None,
) -> Html:
    """One row per value: a dot with its interval on a common axis, above it its label and the value; `references` are
    named upright lines (chance). Rows with a number that is not finite are left out. Long labels make it wider."""
    rows = [row for row in rows if all(map(math.isfinite, (row.value, row.low, row.high)))]
    if not rows:
        return nothing(label, "rows")
    width = max(450, 80 + round(7.2 * max(len(row.label) for row in rows)))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot(ylim=(len(rows) - 0.6, -0.8), yticks=[])
        _span(axes, "x", x, [end for row in rows for end in (row.low, row.high)], 0.0)
        axes.grid(axis="x", color=colour("line"), linewidth=1)
        for name, value in (references or {}).items():
            axes.axvline(value, color=colour("quiet"), linestyle=(0, (4, 3)), linewidth=1, zorder=1)
            axes.annotate(plain(name), (value, 1), (0, 4), ABOVE, "offset points", ha="center", color=colour("quiet"))
        for place, row in enumerate(rows):
            stroke, weight = (colour("accent"), "bold") if row.strong else (colour("series-6"), "normal")
            axes.plot((row.low, row.high), (place, place), color=stroke, linewidth=4, alpha=0.45)
            axes.plot(row.value, place, "o", color=stroke, markersize=8, clip_on=False)
            for end, text in ((0, plain(row.label)), (1, f"{row.value:.3f}")):
                look = {"ha": ("left", "right")[end], "weight": weight}
                look["bbox"] = {"facecolor": colour("surface"), "edgecolor": "none", "pad": 0}
                axes.annotate(text, (end, place), (0, 9), BESIDE, "offset points", **look)
        axes.set_xlabel(plain(x.label))

    return svg(width, 64 + 38 * len(rows), label, draw)


def nothing(label: str, what: str) -> Html:
    """What stands in the place of a chart that has nothing to draw."""
    return Html(f'<p class="quiet">{escape(label)}: no {what}</p>')


def line_numbers(series: Sequence[Series], x_label: str) -> Table:
    """Values of the lines at some places of x: each the latest at or before it."""
    places = sorted({float(a) for one in series for a in one.x if math.isfinite(a)})
    shown = [places[round(at * (len(places) - 1) / (ROWS - 1))] for at in range(ROWS)] if len(places) > ROWS else places
    rows = []
    for place in shown:
        cells = []
        for one in series:
            known = [(a, b) for a, b in zip(one.x, one.y, strict=True) if a <= place and math.isfinite(b)]
            cells.append(max(known, key=lambda point: point[0])[1] if known else None)
        rows.append([place, *cells])
    note = f"{len(shown)} of {len(places):,} places; each value is the latest up to there." if shown != places else ""
    return Table(
        [Column(x_label or "x", True, number), *(Column(s.name, True, number) for s in series)], rows, note=note
    )


def interval_numbers(rows: Sequence[Interval], x_label: str) -> Table:
    """The rows with their values and the ends of their intervals."""
    columns = [Column("row"), *(Column(name, True, "{:.3f}") for name in (x_label or "value", "low", "high"))]
    strong = [place for place, row in enumerate(rows) if row.strong]
    return Table(columns, [[row.label, row.value, row.low, row.high] for row in rows], strong=strong)


def key_rows(names: Sequence[str], width: int) -> int:
    """Rows of a key whose names stand in columns."""
    columns = max(1, int(width / (40 + 7.4 * max(map(len, names), default=0))))
    return math.ceil(len(names) / columns)


def _alone(line: Sequence[tuple[float, float]]) -> bool:
    """Whether a line has but one point, which no stroke would show."""
    return sum(math.isfinite(b) for _, b in line) == 1


def _span(axes: Axes, which: str, axis: Axis, values: Sequence[float], margin: float) -> None:
    """Scale, ends and ticks of one axis: all values, and a share of their span at each end."""
    from matplotlib import ticker

    low, high = (math.log10(end(values)) if axis.log else float(end(values)) for end in (min, max))
    room = margin * (high - low or abs(low) or 1.0)
    low, high = low - room, high + room
    low = low if axis.low is None else math.log10(axis.low) if axis.log else axis.low
    high = high if axis.high is None else math.log10(axis.high) if axis.log else axis.high
    if not high > low:
        low, high = low - (room := max(0.5, 1e-3 * abs(low))), low + room
    ends = [10 ** min(max(end, -300), 300) if axis.log else end for end in (low, high)]
    axes.set(**{f"{which}scale": "log" if axis.log else "linear", f"{which}lim": ends})
    ticks = axis.ticks if axis.ticks is not None else round_ticks(*ends, axis.log)
    one = axes.xaxis if which == "x" else axes.yaxis
    one.set_major_locator(ticker.FixedLocator(ticks))
    one.set_major_formatter(ticker.FuncFormatter(lambda value, _: axis.form(value)))
    one.set_minor_locator(ticker.NullLocator())


def round_ticks(low: float, high: float, log: bool = False) -> list[float]:
    """A few round values inside [low, high]; on a logarithmic scale 1, 2 and 5 times powers of ten, or powers alone."""
    from matplotlib import ticker

    even = ticker.MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])
    scales = [ticker.LogLocator(subs=(1, 2, 5), numticks=99), ticker.LogLocator(numticks=8)] if log else []
    found: list[float] = []
    for locator in (*scales, even):
        found = [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]
        if 3 <= len(found) <= 8:
            break
    return found or [low]


def _name_ends(axes: Axes, ends: Sequence[tuple[tuple[float, float], Series, str]], gap: float) -> None:
    """The names of lines at their last points, moved apart by `gap` shares of the axis."""
    inside = axes.transData + axes.transAxes.inverted()
    placed = sorted(((inside.transform(last)[1], one, stroke) for last, one, stroke in ends), key=lambda end: end[0])
    for y, (_, one, stroke) in zip(spread([y for y, _, _ in placed], gap, -0.02, 1.02), placed, strict=True):
        axes.annotate(
            plain(one.name), (1, y), (8, 0), "axes fraction", "offset points", va="center_baseline",
            color=colour(stroke), weight="normal" if one.guide else "bold",
        )  # fmt: skip


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
