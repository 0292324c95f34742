"""Rows of dots on a common axis, for ratios, and bars, for shares and rates: charts of the benchmarks' pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cambrian_gaze.viz.charts.charts import ABOVE, key_rows, nothing, round_ticks
from cambrian_gaze.viz.charts.drawing import colour, number, plain, svg
from cambrian_gaze.viz.html import Html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW = 21
"""Pixels from one row to the next."""


@dataclass(frozen=True)
class Mark:
    """How the dots of one name look: colour, and hollow or filled, so that neither alone tells them apart."""

    stroke: str
    hollow: bool = False
    square: bool = False

    def look(self) -> dict[str, Any]:
        """As matplotlib's `plot` takes it."""
        fill = colour("surface") if self.hollow else colour(self.stroke)
        return {
            "marker": "s" if self.square else "o",
            "color": colour(self.stroke),
            "markerfacecolor": fill,
            "markersize": 8,
            "markeredgewidth": 2,
            "linestyle": "none",
        }


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
        return nothing(label, "values")
    shown = {name: mark for name, mark in marks.items() if any(name in row.values for row in rows)}
    low, high = 0.93 * min(*values, 0.5), 1.08 * max(*values, 1.25)
    key = key_rows(list(shown), width)
    height = 86 + ROW * len(rows) + 18 * key

    def draw(figure: Figure) -> None:
        from matplotlib.lines import Line2D
        from matplotlib.transforms import ScaledTranslation

        axes = figure.add_subplot(xscale="log", xlim=(low, high), ylim=(len(rows) - 0.4, -0.6))
        ticks = round_ticks(low, high, log=True)
        axes.set_xticks(ticks, [f"{number(tick)}×" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.grid(axis="x", color=colour("line"), linewidth=1)
        axes.axvline(1, color=colour("text"), linewidth=1.5, zorder=1)
        axes.set_yticks(range(len(rows)), [plain(row.label) for row in rows], color=colour("text"))
        axes.set_xlabel(plain(x_label))
        for name, shift, anchor in ((f"← {sides[0]}", -8, "right"), (f"{sides[1]} →", 8, "left")):
            axes.annotate(name, (1, 1), (shift, 6), ABOVE, "offset points", ha=anchor, color=colour("quiet"))
        for at, row in enumerate(rows):
            for order, (name, mark) in enumerate(marks.items()):  # a little apart, so that none hides another
                if row.values.get(name, 0) > 0:
                    shift = ScaledTranslation(0, -3 / 72 * (order - (len(marks) - 1) / 2), figure.dpi_scale_trans)
                    place = axes.transData + shift
                    axes.plot(row.values[name], at, clip_on=False, transform=place, **mark.look())
        handles = [Line2D([], [], **mark.look()) for mark in shown.values()]
        figure.legend(
            handles, [plain(name) for name in shown], loc="outside upper left", ncols=math.ceil(len(shown) / key)
        )

    return svg(width, height, label, draw)


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
        return nothing(label, "values")
    names, values, strokes = zip(*bars, strict=True)

    def draw(figure: Figure) -> None:
        most = max(values) or 1.0
        axes = figure.add_subplot(xlim=(0, 1.14 * most), xticks=[], ylim=(len(bars) - 0.5, -0.5))
        drawn = axes.barh(range(len(bars)), [max(value, most / 300) for value in values], 0.65)
        for one, stroke in zip(drawn, strokes, strict=True):
            one.set_facecolor(colour(stroke))
        axes.bar_label(drawn, [form(value) for value in values], padding=6, weight="bold")
        axes.set_yticks(range(len(bars)), [plain(name) for name in names], color=colour("text"))
        axes.spines["left"].set(visible=True, color=colour("quiet"), linewidth=1)
        axes.set_xlabel(plain(x_label))

    return svg(width, 44 + 40 * len(bars), label, draw)
