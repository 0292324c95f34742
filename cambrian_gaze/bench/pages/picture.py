"""A picture of the benchmarks' pages: lines over a number, or ratios as dots, as one SVG file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cambrian_gaze.bench.pages import rows as of
from cambrian_gaze.measure import Row
from cambrian_gaze.viz.charts.charts import Axis, Series, line_chart
from cambrian_gaze.viz.charts.dot_chart import Dots, Mark, dot_chart
from cambrian_gaze.viz.charts.picture import picture

FRONT = (
    *("decode-time-bf16", "decode-over-k-bf16", "prefill-time", "prefill-memory", "decode-ratios", "attention-ratios"),
    *("data-padding", "data-index"),
)
"""The pictures of the first page, two in a row."""

SIDES = ("gaze slower", "gaze faster")


@dataclass(frozen=True)
class Picture:
    """One SVG file."""

    name: str
    """Of the file, without device and ending."""
    svg: str
    alt: str

    @property
    def place(self) -> int | None:
        """Where on the first page it stands; None: nowhere."""
        return FRONT.index(self.name) if self.name in FRONT else None


def line_picture(name: str, title: str, note: str, series: Sequence[Series], x: Axis, y: Axis) -> Iterator[Picture]:
    """Lines with their names at their ends, x marked where points are; nothing where no line has two points."""
    series = [one for one in series if len(one.x)]
    real = [one for one in series if not one.guide]
    if max((len(one.x) for one in real), default=0) < 2:
        return
    x = replace(x, ticks=sorted({place for one in real for place in one.x}))
    chart = line_chart(series, label=title, x=x, y=y, named_at_ends=True, size=(500, 290))
    names = ", ".join(one.name for one in real)
    yield Picture(name, picture(chart, title, note), f"{title} ({note}): {names}")


def dot_picture(
    name: str,
    title: str,
    note: str,
    cases: Mapping[str, Mapping[str, float]],
    marks: Mapping[str, Mark],
) -> Iterator[Picture]:
    """Ratios to dense, a row per case; nothing without a case."""
    if not any(cases.values()):
        return
    chart = dot_chart(
        [Dots(label, values) for label, values in cases.items()],
        marks,
        label=title,
        sides=SIDES,
        x_label="time of dense / time of gaze",
    )
    yield Picture(name, picture(chart, title, note), f"{title} ({note}): {', '.join(marks)}")


def mebibytes(value: float) -> str:
    """A number of MiB with its unit."""
    return f"{of.short(value)} MiB"


def line(rows: Iterable[Row], key: str, value: str) -> dict[float, float]:
    """As `rows.line`, bytes in MiB, so that an axis has round ones."""
    unit = 2**20 if value.endswith("_bytes") else 1
    return {at: number / unit for at, number in of.line(rows, key, value).items()}


def series(name: str, points: Mapping[float, float], stroke: str) -> Series:
    """A line through points."""
    return Series(name, list(points), list(points.values()), stroke=stroke)


def guide(points: Mapping[float, float], power: int) -> list[Series]:
    """What a line from the first point would be if it grew by a power of N."""
    if len(points) < 2:
        return []
    sizes, first = list(points), next(iter(points.values()))
    name = "∝ N" if power == 1 else f"∝ N{'²' if power == 2 else power}"
    return [Series(name, sizes, [first * (n / sizes[0]) ** power for n in sizes], stroke="quiet", guide=True)]
