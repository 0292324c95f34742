"""Figures of a study: accuracies with their intervals, accuracy by place in the answer, accuracy over a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cambrian_gaze.studies import statistics
from cambrian_gaze.studies.routing import counterfactual
from cambrian_gaze.viz.charts.charts import Axis, Interval, Series, interval_chart, line_chart
from cambrian_gaze.viz.charts.drawing import DENSE, FIRST, SECOND, THIRD
from cambrian_gaze.viz.charts.picture import picture

STROKES = (DENSE, FIRST, SECOND, THIRD)
STRONG = "gaze"
"""How names of arms begin that are drawn strongly."""


class Figure(NamedTuple):
    """One SVG file."""

    name: str
    svg: str
    alt: str


def figures(results: Mapping[str, Any]) -> Iterator[Figure]:
    """All figures of a study's raw results."""
    for family in statistics.families(results):
        yield _intervals(results, family)
        if results.get("lines") and statistics.values_per_answer(results, family) > 1:
            yield _by_place(results, family)
        if any(arm["x"] is not None for arm in results["arms"]):
            yield _over_budget(results, family)

    for family, plain, arms in counterfactual.steered_arms(results):
        yield _around(results, family, plain, arms)


def _note(results: Mapping[str, Any], family: str) -> str:
    first = next(iter(results["seeds"].values()))
    count = len(next(iter(first["arms"].values()))["right"][family])
    seeds = len(results["seeds"])
    return f"{seeds} seed{'' if seeds == 1 else 's'}, {count} questions each; size {results['size']}"


def _intervals(results: Mapping[str, Any], family: str) -> Figure:
    rows = []
    for arm in results["arms"]:
        found = statistics.estimate(results, arm["name"], family)
        strong = arm["name"].startswith(STRONG) and not (arm["blind"] or arm["masked"])
        rows.append(Interval(arm["title"], found.value, found.low, found.high, strong=strong))
    title = f"{family}: values that are right, 95 % interval"
    chart = interval_chart(rows, label=title, x=Axis("accuracy", 0.0, 1.0))
    name = f"{results['study']}-{results['size']}-{family}"
    return Figure(name, picture(chart, title, _note(results, family)), title)


def _by_place(results: Mapping[str, Any], family: str) -> Figure:
    places = range(statistics.values_per_answer(results, family))
    titles = {arm["name"]: arm["title"] for arm in results["arms"]}
    series = []
    for name, stroke in zip(results["lines"], STROKES, strict=False):
        values = [statistics.estimate(results, name, family, slice(n, n + 1)).value for n in places]
        series.append(Series(titles[name], [n + 1 for n in places], values, stroke=stroke))
    title = f"{family}: accuracy by place in the answer"
    x = Axis("value of the answer", ticks=[n + 1 for n in places])
    chart = line_chart(series, label=title, x=x, y=Axis(low=0.0, high=1.0), size=(_width(series), 300))
    name = f"{results['study']}-{results['size']}-{family}-by-place"
    return Figure(name, picture(chart, title, _note(results, family)), title)


def _over_budget(results: Mapping[str, Any], family: str) -> Figure:
    groups: dict[str, list[tuple[float, float]]] = {}
    for arm in results["arms"]:
        if arm["x"] is not None:
            name = arm["title"].split(",")[0]
            groups.setdefault(name, []).append((arm["x"], statistics.estimate(results, arm["name"], family).value))
    series = [
        Series(name, [x for x, _ in sorted(points)], [y for _, y in sorted(points)], stroke=stroke)
        for (name, points), stroke in zip(groups.items(), STROKES, strict=False)
    ]
    title = f"{family}: accuracy over {results['x_label'] or 'the budget'}"
    x = Axis(results["x_label"], ticks=sorted({x for one in series for x in one.x}))
    chart = line_chart(series, label=title, x=x, y=Axis(low=0.0, high=1.0), size=(_width(series), 300))
    name = f"{results['study']}-{results['size']}-{family}-budget"
    return Figure(name, picture(chart, title, _note(results, family)), title)


def _around(results: Mapping[str, Any], family: str, plain: str, arms: list[str]) -> Figure:
    """Accuracy by distance from the value whose region is hidden."""
    titles = {arm["name"]: arm["title"] for arm in results["arms"]}
    reach = statistics.values_per_answer(results, family) - 1
    offsets = list(range(-reach, reach + 1))
    series = []
    for arm, stroke in zip([plain, *arms], STROKES, strict=False):
        like = arms[0] if arm == plain else arm
        values = [counterfactual.share_around(results, arm, like, family, offset) for offset in offsets]
        series.append(Series(titles[arm], offsets, values, stroke=stroke))
    title = f"{family}: accuracy around the value whose region is hidden"
    x = Axis("values after the one whose region is hidden", ticks=offsets)
    chart = line_chart(series, label=title, x=x, y=Axis(low=0.0, high=1.0), size=(720, 300))
    name = f"{results['study']}-{results['size']}-{family}-hidden-{plain.replace('_', '-')}"
    return Figure(name, picture(chart, title, _note(results, family)), title)


def _width(series: list[Series]) -> int:
    """Pixels in which the key has room for all names."""
    return max(620, 80 + sum(40 + round(7.4 * len(one.name)) for one in series))
