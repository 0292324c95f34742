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
from cambrian_gaze.viz.charts.charts import Interval, Series, heat_map, interval_chart, line_chart
from cambrian_gaze.viz.html import Column, Html, element
from cambrian_gaze.viz.overlay import TokenPanel, share_text


@dataclass(frozen=True)
class ResultTable:
    """A table of results."""

    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    note: str = ""
    strong: Sequence[int] = ()
    """Rows (from 0) to set off."""


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
        return None if self.truth is None else self.text.strip() == self.truth.strip()


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


@dataclass(frozen=True)
class Recall:
    """How often the asked region was among the K, per layer and head: `values` [layers][heads] in [0, 1]."""

    values: Sequence[Sequence[float]]
    chance: float
    """K / R: what a random choice reaches."""
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that a report shows; what is empty is left out."""

    title: str
    subtitle: str = ""
    summary: Sequence[str] = ()
    tiles: Sequence[tuple[Any, Any, Any]] = ()
    """Key numbers: (label, value, hint)."""
    tables: Sequence[ResultTable] = ()
    intervals: Sequence[Intervals] = ()
    examples: Sequence[Example] = ()
    recalls: Sequence[Recall] = ()
    curves: Sequence[Curve] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Hardware, versions, settings."""
    notes: Sequence[str] = ()
    more_examples: Sequence[Example] = ()
    """Further examples, folded."""


def arms_table(
    arms: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str] | None = None,
    *,
    strong: Sequence[str] = (),
    title: str = "",
    note: str = "",
) -> ResultTable:
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
    return ResultTable(columns, rows, title, note, places)


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
    return build_page(report).render()


def write_report(path: str | os.PathLike, report: Report) -> Path:
    """Writes the report to one file, atomically, and returns its path."""
    return build_page(report).write(path)


def build_page(report: Report) -> html.Page:
    """The page of a report, open for further sections."""
    page = html.Page(report.title, report.subtitle)
    if report.summary or report.tiles:
        lines = html.bullets(report.summary) if len(report.summary) > 1 else html.paragraph(*report.summary)
        page.section(None, html.tiles(report.tiles) if report.tiles else None, lines if report.summary else None)
    if report.tables or report.intervals:
        page.section("Results", [_table(one) for one in report.tables], [_intervals(one) for one in report.intervals])
    if report.examples or report.more_examples:
        folded = [_example(example) for example in report.more_examples]
        page.section(
            "Where it looked",
            _key(any(p.asked_share is not None for e in (*report.examples, *report.more_examples) for p in e.panels)),
            [_example(example) for example in report.examples],
            html.details(f"More examples ({len(folded)})", folded) if folded else None,
        )
    if report.recalls:
        lead = "How often the region that the question asks for is among the chosen K, for each layer and head."
        page.section("Routing recall", html.grid(*[_recall(recall) for recall in report.recalls]), lead=lead)
    if report.curves:
        page.section("Training", html.grid(*[_curve(curve) for curve in report.curves]))
    if report.facts or report.notes:
        notes = html.bullets(report.notes) if report.notes else None
        page.section("How it ran", html.facts(report.facts) if report.facts else None, notes)
    return page


def _table(result: ResultTable) -> Html:
    table = html.table(result.columns, result.rows, caption=result.title or None, strong=result.strong)
    return html.markup([table, html.paragraph(result.note, quiet=True) if result.note else None])


def _intervals(chart: Intervals) -> Html:
    drawing = interval_chart(
        chart.rows, label=chart.title or chart.x_label, x_label=chart.x_label, references=chart.references, width=860
    )
    return html.figure(drawing, chart.note or None, title=chart.title or None)


def _curve(curve: Curve) -> Html:
    drawing = line_chart(
        curve.series,
        label=curve.title,
        x_label=curve.x_label,
        y_label=curve.y_label,
        y_min=curve.y_min,
        y_max=curve.y_max,
        log_y=curve.log_y,
    )
    return html.figure(drawing, curve.note or None, title=curve.title)


def _recall(recall: Recall) -> Html:
    chance = recall.chance if recall.chance < 1 else None  # K = R: every head finds everything
    drawing = heat_map(recall.values, label=recall.title or "routing recall", chance=chance)
    return html.figure(drawing, recall.note or None, title=recall.title or None)


def _key(asked: bool) -> Html:
    def swatch(style: str) -> Html:
        return element("span", class_="swatch", style=style)

    parts = [
        element(
            "span",
            swatch("background:linear-gradient(90deg,#fff,#ffa24d);border:1px solid var(--line)"),
            "share of heads and layers that chose the region, 0 to 100 %",
        ),
        element("span", swatch("border:2px solid #dc2626;width:14px"), "chosen most"),
    ]
    if asked:
        parts.append(element("span", swatch("border:2px dashed #0e91ff;width:14px"), "asked for (corners)"))
    return element("div", parts, class_="key")


def _verdict(correct: bool | None) -> str | None:
    return {None: None, True: "right", False: "wrong"}[correct]


def _answer(tokens: Sequence[AnswerToken]) -> list[Html]:
    """Judged pieces as chips, their outer spaces kept outside."""
    parts = []
    for token in tokens:
        read, plain = token.text.strip(), token.correct is None
        if plain or not read and token.correct:
            parts.append(element("span", token.text))
            continue
        before = token.text[: len(token.text) - len(token.text.lstrip())] if read else ""
        after = token.text[len(token.text.rstrip()) :] if read else token.text
        if token.correct:
            chip = element("span", read, class_="tok right")
        else:
            truth = element("b", token.truth.strip())
            chip = element("span", element("s", read or "nothing"), " ", truth, class_="tok wrong", title="read, truth")
        parts += [html.markup(before), chip, html.markup(after)]
    return parts


def _panel(panel: TokenPanel) -> Html:
    name = " ".join(filter(None, ("name", _verdict(panel.correct))))
    return element(
        "figure",
        html.picture(panel.image, f"gaze while writing {panel.token!r}"),
        element("div", token_label(panel.token), class_=name),
        element("div", share_text(panel), class_="share"),
        class_="panel",
    )


def _example(example: Example) -> Html:
    pairs = [element("dt", "question"), element("dd", example.question)]
    pairs += [element("dt", "answer"), element("dd", _answer(example.answer), class_="answer")]
    if example.truth:
        pairs += [element("dt", "truth"), element("dd", example.truth)]
    page = None
    if example.image is not None:
        crisp = max(example.image.size) < 480
        picture = html.picture(example.image, "the picture as the model sees it", crisp=crisp)
        page = element("div", picture, class_="page")
    panels = element("div", [_panel(panel) for panel in example.panels], class_="panels") if example.panels else None
    text = element("div", element("dl", pairs, class_="qa"), panels)
    return element(
        "div",
        element("h3", example.title) if example.title else None,
        element("div", page, text, class_="sides") if page else text,
        html.paragraph(example.note, quiet=True) if example.note else None,
        class_="example",
    )
