"""A filled row as Markdown, CSV, JSON and an HTML page."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

from cambrian_gaze.evaluation.benchmarks import PROTOCOLS
from cambrian_gaze.evaluation.tables.fill import Cell, Filled, kv_text
from cambrian_gaze.evaluation.tables.table import MME_COLUMN, MME_SCALE
from cambrian_gaze.files import write_text
from cambrian_gaze.viz import html
from cambrian_gaze.viz.charts.charts import Interval
from cambrian_gaze.viz.report import Chart, Intervals, interval_figure

HEADINGS = ("column", "measured", "95 % CI", "paper", "Δ", "n", "KV attended", "undecided", "revision", "status")
LEAD = (
    "95 % intervals are bootstraps over scoring groups. KV attended: visual entries + context tokens per query, layer "
    "and head, as counted while the answers were generated and equal to the cost model. A missing answer counts as "
    "wrong; columns that are not complete are left out of the averages. Rule of arXiv v1: half MME-P / 20, half the "
    "mean of the others; published rule: the mean of all, MME-P / 20 among them."
)


def write_reports(filled: Filled, output: Path) -> str:
    """Write `table.md`, `table.csv`, `table.json` and `table.html`; returns the Markdown."""
    text = markdown(filled)
    write_text(output / "table.md", text)
    write_text(output / "table.csv", csv_text(filled))
    write_text(output / "table.json", json_text(filled))
    write_text(output / "table.html", page(filled))
    return text


def headings(filled: Filled) -> list[str]:
    """The columns of the report; the difference stands after Δ where there is another run."""
    names = list(HEADINGS)
    if filled.against is not None:
        names[5:5] = ["− other", "95 % CI of it"]
    return names


def cells(filled: Filled, cell: Cell) -> list[str]:
    """One cell of the row as texts, in the order of `headings`."""
    texts = [
        cell.title,
        _figure(cell.measured),
        _interval(cell.ci95),
        _figure(cell.paper),
        _signed(cell.delta),
        f"{cell.n:,}" if cell.n else "–",
        kv_text(cell.attended),
        f"{cell.undecided:,}" if cell.undecided else "–",
        cell.revision[:12] or "–",
        cell.status,
    ]
    if filled.against is not None:
        texts[5:5] = [_signed(cell.difference), _interval(cell.difference_ci95, signed=True)]
    return texts


def markdown(filled: Filled) -> str:
    """The row, protocol by protocol, and the paper's rows."""
    other = "" if filled.against is None else f" Other: `{filled.against}`, paired by scoring group."
    lines = [f"# {filled.table.title}: {filled.row.name}", "", f"Model: `{filled.model}`.{other} {LEAD}", ""]
    for protocol in _protocols(filled):
        lines += [
            f"## Protocol `{protocol}`",
            "",
            *_pipe(headings(filled), [cells(filled, c) for c in _of(filled, protocol)]),
        ]
        lines.append("")
    lines += [f"- {note}" for note in filled.notes] + ([""] if filled.notes else [])
    lines += ["## The paper's rows", "", *_pipe(*_published(filled))]
    return "\n".join(lines) + "\n"


def csv_text(filled: Filled) -> str:
    """One line per column and protocol, figures unrounded."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [field.name for field in dataclasses.fields(Cell) if not field.name.endswith(("ci95", "attended"))]
    ends = [
        "ci95_low",
        "ci95_high",
        "delta",
        "difference_ci95_low",
        "difference_ci95_high",
        "kv_visual",
        "kv_context",
        "kv_of",
    ]
    writer.writerow(["row", *names, *ends])
    for cell in filled.cells:
        attended = cell.attended or {}
        more = [
            *(cell.ci95 or (None, None)), cell.delta, *(cell.difference_ci95 or (None, None)),
            *(attended.get(name) for name in ("visual", "context", "of")),
        ]  # fmt: skip
        writer.writerow([filled.row.name, *(getattr(cell, name) for name in names), *more])
    return buffer.getvalue()


def json_text(filled: Filled) -> str:
    """Everything, figures unrounded."""
    values = {
        "table": filled.table.title,
        "row": dataclasses.asdict(filled.row),
        "model": filled.model,
        "against": filled.against,
        "averages": dict(filled.table.averages),
        "average_of": list(filled.table.average_of),
        "average_status": filled.table.average_status,
        "notes": filled.notes,
        "cells": [{**dataclasses.asdict(cell), "delta": cell.delta} for cell in filled.cells],
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def page(filled: Filled) -> str:
    """A self-contained page: key numbers, the row per protocol, intervals, the paper's rows."""
    other = "" if filled.against is None else f"; other: {filled.against}, paired by scoring group"
    columns = [html.Column(name, number=name not in ("column", "revision", "status")) for name in headings(filled)]
    protocols = []
    for protocol in _protocols(filled):
        own = _of(filled, protocol)
        # The reasons are long: the table has the word, a list below it the rest.
        rows = [[*cells(filled, cell)[:-1], cell.status.split(":")[0].split(" (")[0]] for cell in own]
        strong = [place for place, cell in enumerate(own) if cell.average]
        reasons = [f"{cell.title}: {cell.status}" for cell in own if cell.status != "complete"]
        table = html.Table(columns, rows, strong=strong)
        protocols.append({"name": protocol, "table": table, "reasons": reasons, "chart": _chart(own, protocol)})
    heads, rows = _published(filled)
    numbers = [html.Column(head, number=True) for head in heads[2:]]
    published = html.Table([*heads[:2], *numbers], rows, strong=range(len(_protocols(filled))))
    return html.render(
        "results_table.html",
        title=f"{filled.table.title}: {filled.row.name}",
        subtitle=f"Model {filled.model}{other}",
        lead=LEAD,
        tiles=_tiles(filled),
        notes=filled.notes,
        protocols=protocols,
        published=published,
    )


def _tiles(filled: Filled) -> list[tuple[str, str, str]]:
    tiles = []
    for cell in filled.cells:
        if cell.average:
            beside = "" if cell.paper is None else f", paper {_figure(cell.paper)}"
            tiles.append((f"{cell.title}, {cell.protocol}", _figure(cell.measured), f"{cell.status}{beside}"))
    counted = [cell for cell in filled.cells if cell.attended is not None]
    if counted:
        tiles.append(("KV attended", kv_text(counted[0].attended), f"counted, {counted[0].title}"))
    done = sum(cell.status == "complete" for cell in filled.cells if not cell.average)
    tiles.append(("Complete", f"{done}", f"of {sum(not cell.average for cell in filled.cells)} columns"))
    return tiles


def _chart(own: Sequence[Cell], protocol: str) -> Chart | None:
    """Intervals of all columns on one axis, as shares; MME-P of its 2,000 points."""
    rows = []
    for cell in own:
        if cell.measured is not None and cell.ci95 is not None:
            scale = 100.0 * (MME_SCALE if cell.column == MME_COLUMN else 1.0)
            low, high = (end / scale for end in cell.ci95)
            title = f"{cell.title} / 2000" if cell.column == MME_COLUMN else cell.title
            rows.append(Interval(title, cell.measured / scale, low, high, strong=cell.average))
    if not rows:
        return None
    note = f"Measured figures, protocol {protocol}, as shares of the maximum, with their 95 % intervals."
    return interval_figure(Intervals("", rows, "share of the maximum", note=note))


def _published(filled: Filled) -> tuple[list[str], list[list[str]]]:
    """Measured rows and the paper's, one column per benchmark."""
    columns = [*filled.table.averages, *filled.table.columns]
    titles = {cell.column: cell.title for cell in filled.cells}
    rows = []
    for protocol in _protocols(filled):
        own = {cell.column: cell for cell in _of(filled, protocol)}
        figures = [_figure(own[name].measured) + ("" if own[name].status == "complete" else " *") for name in columns]
        rows.append([f"measured, {protocol}", _kv_of(filled, protocol), *figures])
    for row in filled.table.rows:
        size = f"{row.kv_published}: {row.kv_size}" if row.kv_published else row.kv_size
        rows.append([row.name, size, *(_figure(row.paper.get(name)) for name in columns)])
    return ["row", "KV", *(titles[name] for name in columns)], rows


def _kv_of(filled: Filled, protocol: str) -> str:
    counted = [cell.attended for cell in _of(filled, protocol) if cell.attended is not None]
    return kv_text(counted[0]).split(" of ")[0] if counted else "–"


def _protocols(filled: Filled) -> list[str]:
    present = {cell.protocol for cell in filled.cells}
    return [protocol for protocol in PROTOCOLS if protocol in present]


def _of(filled: Filled, protocol: str) -> list[Cell]:
    return [cell for cell in filled.cells if cell.protocol == protocol]


def _pipe(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return lines + [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |" for row in rows]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def _interval(ends: Sequence[float] | None, signed: bool = False) -> str:
    if ends is None:
        return "–"
    return " – ".join(_signed(end) if signed else _figure(end) for end in ends)
