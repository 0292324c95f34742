"""A run's report as one HTML file: numbers, curves, examples with their gaze, routing recall, where it ran."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from cambrian_gaze.viz import html
from cambrian_gaze.viz.canvas import token_label
from cambrian_gaze.viz.charts.charts import (
    Axis,
    Interval,
    Series,
    interval_chart,
    interval_numbers,
    line_chart,
    line_numbers,
)
from cambrian_gaze.viz.charts.drawing import available
from cambrian_gaze.viz.charts.heat_map import heat_map, heat_numbers
from cambrian_gaze.viz.html import Column, Html, Table
from cambrian_gaze.viz.overlay import TokenPanel, share_text


@dataclass(frozen=True)
class Chart:
    """A chart as a page shows it."""

    drawing: Html | None
    """Its picture; None without matplotlib."""
    numbers: Table
    """What it shows, as a table."""
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """A line chart."""

    title: str
    series: Sequence[Series]
    x_label: str = "optimizer step"
    y_label: str = ""
    note: str = ""
    y_min: float | None = None
    y_max: float | None = None
    log_y: bool = False


@dataclass(frozen=True)
class Intervals:
    """A chart of values with their intervals, on one axis."""

    title: str
    rows: Sequence[Interval]
    x_label: str = "accuracy"
    references: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class AnswerToken:
    """A piece of an answer; with a truth it is judged, without one it is plain text."""

    text: str
    truth: str | None = None

    @property
    def correct(self) -> bool | None:
        return None if self.truth is None else self.read == self.truth.strip()

    @property
    def read(self) -> str:
        return self.text.strip()

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to judge."""
        return self.correct is None or not self.read and self.correct

    @property
    def before(self) -> str:
        """Spaces before what was read."""
        return self.text[: len(self.text) - len(self.text.lstrip())] if self.read else ""

    @property
    def after(self) -> str:
        return self.text[len(self.text.rstrip()) :] if self.read else self.text


@dataclass(frozen=True)
class Example:
    """One question about one picture."""

    question: str
    answer: Sequence[AnswerToken]
    image: Image.Image | None = None
    """The picture as the model saw it."""
    panels: Sequence[TokenPanel] = ()
    """The gaze per token."""
    title: str = ""
    truth: str = ""
    """The whole expected answer, where pieces cannot be compared one by one."""
    note: str = ""

    @property
    def crisp(self) -> bool:
        """Whether hard pixels are kept when the picture is enlarged."""
        return self.image is not None and max(self.image.size) < 480

    @property
    def shown_panels(self) -> list[dict[str, Any]]:
        """Picture, name, share and verdict of each panel."""
        verdicts = {None: None, True: "right", False: "wrong"}
        return [
            {
                "image": panel.image,
                "label": token_label(panel.token),
                "share": share_text(panel),
                "verdict": verdicts[panel.correct],
            }
            for panel in self.panels
        ]


@dataclass(frozen=True)
class Recall:
    """How often the asked region was among the K, per layer and head: `values` [layers][heads] in [0, 1]."""

    values: Sequence[Sequence[float]]
    chance: float
    """K / R: what a random choice reaches."""
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Link:
    """A page beside the report."""

    address: str
    """Relative to the report."""
    name: str
    note: str = ""
    pictures: Sequence[tuple[str, Image.Image]] = ()
    """What it shows, each with its name."""


@dataclass(frozen=True)
class Report:
    """Everything that a report shows; what is empty is left out."""

    title: str
    subtitle: str = ""
    summary: Sequence[str] = ()
    tiles: Sequence[tuple[Any, Any, Any]] = ()
    """Key numbers: (label, value, hint)."""
    tables: Sequence[Table] = ()
    intervals: Sequence[Intervals] = ()
    pages: Sequence[Link] = ()
    """Pages about the examples' gaze, before them."""
    examples: Sequence[Example] = ()
    recalls: Sequence[Recall] = ()
    curves: Sequence[Curve] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Hardware, versions, settings."""
    notes: Sequence[str] = ()
    more_examples: Sequence[Example] = ()
    """Further examples, folded."""

    @property
    def asked(self) -> bool:
        """Whether some panel marks a region that the question asked for."""
        examples = (*self.examples, *self.more_examples)
        return any(panel.asked_share is not None for one in examples for panel in one.panels)


def arms_table(
    arms: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str] | None = None,
    *,
    strong: Sequence[str] = (),
    title: str = "",
    note: str = "",
) -> Table:
    """The table of evaluated arms: NAME -> {accuracy, ci95: [low, high], accuracy_global?, attended_visual_kv,
    retained_visual_kv?, visual_tokens, tokens_per_s, n}. A number that is missing is shown as a dash. `names` gives the
    shown names."""
    with_global, with_retained = (
        any(key in arm for arm in arms.values()) for key in ("accuracy_global", "retained_visual_kv")
    )
    columns = [Column("arm"), Column("accuracy", True, "{:.3f}"), Column("95 % CI", True)]
    columns += [Column("global", True, "{:.3f}")] if with_global else []
    columns += [
        Column("attended visual KV", True, "{:,.1f}"),
        Column("KV / visual tokens", True, "{:.1%}"),
        *([Column("visual tokens in memory", True, "{:,.1f}")] if with_retained else []),
        Column("tokens/s", True, "{:,.1f}"),
        Column("values", True, "{:,}"),
    ]
    rows = []
    for name, arm in arms.items():
        ci, attended, visual = arm.get("ci95"), arm.get("attended_visual_kv"), arm.get("visual_tokens")
        row = [(names or {}).get(name, name), arm.get("accuracy"), f"{ci[0]:.3f} – {ci[1]:.3f}" if ci else None]
        row += [arm.get("accuracy_global")] if with_global else []
        row += [attended, attended / visual if attended is not None and visual else None]
        row += [arm.get("retained_visual_kv")] if with_retained else []
        rows.append([*row, arm.get("tokens_per_s"), arm.get("n")])
    places = [place for place, name in enumerate(arms) if name in strong]
    return Table(columns, rows, title, note, places)


def arms_intervals(
    arms: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str] | None = None,
    *,
    strong: Sequence[str] = (),
    title: str = "",
    note: str = "",
    references: Mapping[str, float] | None = None,
) -> Intervals:
    """The same arms as dots with their confidence intervals."""
    rows = [
        Interval(
            (names or {}).get(name, name), arm["accuracy"], *(arm.get("ci95") or (arm["accuracy"],) * 2), name in strong
        )
        for name, arm in arms.items()
        if arm.get("accuracy") is not None
    ]
    return Intervals(title, rows, references=references or {}, note=note)


def render_report(report: Report) -> str:
    """The whole HTML document."""
    return html.render("report.html", **report_values(report))


def write_report(path: str | os.PathLike, report: Report) -> Path:
    """Writes the report to one file, atomically, and returns its path."""
    return html.write(path, "report.html", **report_values(report))


def report_values(report: Report) -> dict[str, Any]:
    """What `report.html`, and templates that extend it, are filled with. Without matplotlib its charts have numbers
    alone."""
    return {
        "title": report.title,
        "subtitle": report.subtitle,
        "report": report,
        "intervals": [interval_figure(one) for one in report.intervals],
        "recalls": [_recall(one) for one in report.recalls],
        "curves": [_curve(one) for one in report.curves],
    }


def interval_figure(one: Intervals) -> Chart:
    """The chart of some intervals with its numbers."""
    axis = Axis(one.x_label, 0.0, 1.0)
    label = one.title or one.x_label
    drawn = interval_chart(one.rows, label=label, x=axis, references=one.references) if available() else None
    return Chart(drawn, interval_numbers(one.rows, one.x_label), one.title, one.note)


def _curve(one: Curve) -> Chart:
    y = Axis(one.y_label, one.y_min, one.y_max, one.log_y)
    drawn = line_chart(one.series, label=one.title, x=Axis(one.x_label), y=y) if available() else None
    return Chart(drawn, line_numbers(one.series, one.x_label), one.title, one.note)


def _recall(one: Recall) -> Chart:
    chance = one.chance if one.chance < 1 else None  # K = R: every head finds everything
    drawn = heat_map(one.values, label=one.title or "routing recall", chance=chance) if available() else None
    return Chart(drawn, heat_numbers(one.values), one.title, one.note)
