"""Histograms as a PNG: for folders and machines where no page is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from cambrian_gaze.viz.charts import drawing
from cambrian_gaze.viz.charts.charts import ABOVE
from cambrian_gaze.viz.charts.drawing import drawable, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL = (540, 265)


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
    """The panels side by side below a title.

    Raises: ValueError without a panel, ImportError without matplotlib.
    """
    if not panels:
        raise ValueError("no histogram to draw: there are no values")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    head = 70 if subtitle else 48
    width, height = columns * _PANEL[0], head + rows * _PANEL[1]

    def draw(figure: Figure) -> None:
        figure.get_layout_engine().set(w_pad=12 / 72, h_pad=10 / 72, rect=(0, 0, 1, 1 - head / height))
        heads = ((title, 36, 19, drawing.INK), (subtitle, 58, 12, drawing.QUIET))
        for text, below, size, ink in heads:
            figure.text(14 / width, 1 - below / height, drawable(text), size=size, color=ink)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            _draw_panel(axes, panel)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()

    return drawing.picture(width, height, draw)


def _draw_panel(axes: Axes, panel: Histogram) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    bars = len(panel.counts)
    most = max(*panel.counts, 1)
    seen = [max(count, most / 120) if count else 0 for count in panel.counts]  # a single sample can be seen
    axes.bar(range(bars), seen, 0.9, align="edge", color=drawing.BAR)
    axes.set(xlim=(0, bars), ylim=(0, most * 1.06))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.tick_params(labelcolor=drawing.QUIET, labelsize=11)
    axes.grid(axis="y", color=drawing.LINE, linewidth=1)
    axes.spines["bottom"].set(visible=True, color=drawing.QUIET, linewidth=1)
    every = max(1, -(-len(panel.edges) * 52 // (_PANEL[0] - 80)))
    labels = [(place, number(edge)) for place, edge in enumerate(panel.edges)][::every]
    if panel.names is not None:
        labels = [(place + 0.45, name) for place, name in enumerate(panel.names) if name]
    axes.set_xticks([place for place, _ in labels], [name for _, name in labels])
    axes.set_xlabel(drawable(panel.x_label), color=drawing.QUIET, size=12)
    axes.set_title(drawable(panel.note), size=11.5, color=drawing.QUIET, pad=8)
    axes.annotate(drawable(panel.title), (0, 1), (0, 26), "axes fraction", "offset points", size=14, color=drawing.INK)
    for name, value in panel.marks.items():
        if (at := _position(panel.edges, value)) is not None:
            axes.axvline(at, color=drawing.MARK, linewidth=1.5)
            left = at > 0.6 * bars
            options = {"size": 11, "color": drawing.MARK, "ha": "right" if left else "left", "va": "top"}
            axes.annotate(drawable(name), (at, 1), (-5 if left else 5, -2), ABOVE, "offset points", **options)


def _position(edges: Sequence[float], value: float) -> float | None:
    """Where a value lies, in bars from the left; None outside."""
    for place, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        if low <= value <= high:
            return place + (value - low) / (high - low)
    return None
