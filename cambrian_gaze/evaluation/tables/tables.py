"""A table of the paper: its rows and figures from a YAML file, and one row filled with what was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.declarations import declaration
from cambrian_gaze.evaluation.benchmarks import BENCHMARKS, PROTOCOLS, Benchmark
from cambrian_gaze.evaluation.results import TaskResult, read_results, task_name
from cambrian_gaze.evaluation.tables.columns import ScoreColumn
from cambrian_gaze.evaluation.tables.intervals import percentiles

Average = Literal["mme_half", "mean"]
RULES: dict[str, str] = {"mme_half": "Avg, rule of arXiv v1", "mean": "Avg, published rule"}
"""Ways to average, and what reports call them: half MME-P / 20 and half the mean of the others, or the mean of all."""
MME_COLUMN = "mme_p"
MME_SCALE = 20.0
"""MME-P in points over this is on the scale of the other columns."""


FRAMES = "video_"
"""What the options of frames begin with in a row's `model_args`."""


@dataclass(frozen=True)
class Row:
    """One row as the paper has it."""

    name: str
    kv_size: str
    """Visual KV entries per query: regions + context tokens, "72+4"; of videos the most that the budget allows."""
    paper: Mapping[str, float]
    """Column → figure, averages by the table's names for them among them."""
    model_args: Mapping[str, Any] | None = None
    """Run-time options of the gaze, and `video_…` options of the frames; None: another model or method, shown for
    comparison only."""
    kv_published: str = ""
    """The KV size as it was published, where `kv_size` is our reading of it."""
    tokens_per_frame: int | None = None
    """Visual tokens of a frame in that reading."""
    needs: str = ""
    """What the checkpoint must be, where the options alone do not make the row."""

    @property
    def slug(self) -> str:
        """The name as that of a folder."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def gaze_options(self) -> dict[str, Any]:
        """What `generate(gaze=…)` takes. Raises ValueError for a row that is not this project's to measure."""
        if self.model_args is None:
            raise ValueError(f"row {self.name!r} has no model_args: it is published for comparison and cannot be run")
        return {name: value for name, value in self.model_args.items() if not name.startswith(FRAMES)}

    def frame_options(self) -> dict[str, Any]:
        """Fields of `FrameSampling` that the row sets."""
        return {name: value for name, value in (self.model_args or {}).items() if name.startswith(FRAMES)}


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    averages: Mapping[str, Average]
    """Name of an average → its rule."""
    average_of: Sequence[str]
    """The columns that are averaged."""
    average_status: str = ""
    """What must be said about the average: `unverified` where its columns are a guess."""

    @property
    def average(self) -> Average:
        """The rule of the first average."""
        return next(iter(self.averages.values()))

    @property
    def benchmarks(self) -> list[Benchmark]:
        """In the order of the columns."""
        known = {one.in_table: one for one in BENCHMARKS.values()}
        return [known[column] for column in self.columns]

    def row(self, name: str) -> Row:
        """A row by its name. Raises ValueError that lists the names."""
        for row in self.rows:
            if row.name == name:
                return row
        raise ValueError(f"no row {name!r}; the rows are:\n" + "\n".join(f"  {row.name}" for row in self.rows))


def read_table(path: str | Path) -> Table:
    """The table in a YAML file. Raises ValueError naming file and key where it is not well-formed."""
    values = yaml.safe_load(declaration(path).read_text(encoding="utf-8"))
    keys = {"title", "columns", "rows"}
    if isinstance(values, dict) and "average" in values:
        rest = {name: value for name, value in values.items() if name != "average"}
        values = {"averages": {"avg": values["average"]}} | rest  # one rule, as tables were written before
    if not isinstance(values, dict) or set(values) - {"average_of", "average_status"} != keys | {"averages"}:
        raise ValueError(
            f"{path} must hold {', '.join(sorted(keys))} and averages (or average), and may hold average_of and "
            "average_status"
        )
    averages, columns = values["averages"], values["columns"]
    if not isinstance(averages, dict) or not averages or not set(averages.values()) <= set(RULES):
        raise ValueError(f"{path}: average must be mme_half or mean, got {averages!r}")
    if set(averages) & set(columns):
        raise ValueError(f"{path}: {', '.join(set(averages) & set(columns))} is the name of a column and an average")
    unknown = sorted(set(columns) - {one.in_table for one in BENCHMARKS.values()})
    if unknown:
        raise ValueError(f"{path}: no benchmark fills the columns {', '.join(unknown)}")
    averaged = values.get("average_of", columns)
    if not set(averaged) <= set(columns):
        raise ValueError(f"{path}: average_of names {', '.join(sorted(set(averaged) - set(columns)))}, not in columns")
    named = [*columns, *averages]
    rows = [_row(entry, named, f"{path}, row {number}") for number, entry in enumerate(values["rows"], 1)]
    return Table(values["title"], columns, rows, averages, averaged, values.get("average_status", ""))


def _row(entry: Any, columns: Sequence[str], where: str) -> Row:
    wanted, more = {"name", "kv_size", "paper"}, {"model_args", "kv_published", "tokens_per_frame", "needs"}
    if not isinstance(entry, dict) or not wanted <= set(entry) <= wanted | more:
        raise ValueError(f"{where}: a row holds {', '.join(sorted(wanted))}, and may hold {', '.join(sorted(more))}")
    unknown = sorted(set(entry["paper"]) - set(columns))
    if unknown:
        raise ValueError(f"{where}: paper holds figures of unknown columns: {', '.join(unknown)}")
    row = Row(**{**entry, "kv_size": str(entry["kv_size"])})
    try:
        FrameSampling(**row.frame_options())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: model_args: {error}") from error
    return row


def average(kind: Average, figures: Mapping[str, Any]) -> Any:
    """The paper's average of figures (numbers or arrays of draws) by column.

    `mme_half`: half MME-P / 20 and half the mean of the others; where one of the two is not there, the other. `mean`:
    the mean of all. None where there are no figures.
    """
    rest = [value for column, value in figures.items() if column != MME_COLUMN]
    mean = sum(rest) / len(rest) if rest else None
    if MME_COLUMN not in figures:
        return mean
    points = figures[MME_COLUMN] / MME_SCALE
    if kind == "mean":
        return (points + sum(rest)) / (1 + len(rest))
    return points if mean is None else 0.5 * points + 0.5 * mean


@dataclass(frozen=True)
class Cell:
    """One figure of the row under one protocol, beside the paper's."""

    column: str
    title: str
    protocol: str
    measured: float | None
    ci95: tuple[float, float] | None
    paper: float | None
    n: int
    groups: int
    undecided: int
    missing: int
    status: str
    revision: str = ""
    attended: Mapping[str, float] | None = None
    """Counted KV entries per query, layer and head: `visual`, `context`, `of`."""
    most_attended: Mapping[str, float] | None = None
    """The same for the answer with the most visual tokens."""
    average: bool = False
    """Whether this is an average over the columns, by one of the table's rules."""
    difference: float | None = None
    """Measured less the other run's."""
    difference_ci95: tuple[float, float] | None = None

    @property
    def delta(self) -> float | None:
        """Measured less the paper's."""
        return None if self.measured is None or self.paper is None else self.measured - self.paper


@dataclass(frozen=True)
class Filled:
    """A row with what was measured."""

    table: Table
    row: Row
    cells: list[Cell]
    """Columns in order, protocol after protocol; each protocol ends with the averages, in columns of their names."""
    model: str
    against: str | None = None
    notes: list[str] = field(default_factory=list)


def fill_row(table: Table, row: Row, output: str | Path, against: str | Path | None = None) -> Filled:
    """Score the run in `output` into a row.

    Args:
        against: another run; its figures are taken off, paired by scoring group.

    Raises: ValueError where a folder holds no run, or the two runs do not hold the same groups; RuntimeError where
        counted KV entries differ from the cost model.
    """
    results = read_results(output)
    _check_one_model(table, results, output)
    others = None if against is None else read_results(against)
    cells: list[Cell] = []
    for protocol in PROTOCOLS:
        found = {one.in_table: results.get(task_name(one, protocol)) for one in table.benchmarks}
        if all(result is None for result in found.values()):
            continue
        whole: dict[str, ScoreColumn] = {}
        other_whole: dict[str, ScoreColumn] = {}
        for benchmark in table.benchmarks:
            name = benchmark.in_table
            result, other = found[name], (others or {}).get(task_name(benchmark, protocol))
            cells.append(_cell(benchmark, protocol, result, row, other))
            if name in table.average_of and result is not None and result.complete:
                whole[name] = result.column
                if other is not None and other.complete:
                    other_whole[name] = other.column
        cells += [_average_cell(table, name, row, protocol, whole, other_whole) for name in table.averages]
    if not cells:
        raise ValueError(f"{output} holds none of the table's columns; run: {', '.join(table.columns)}")
    model = next(iter(results.values())).task.get("model", "")
    notes = _notes(table, row, cells) + _frame_notes(table, row, results)
    return Filled(table, row, cells, model, None if against is None else str(against), notes)


def _check_one_model(table: Table, results: Mapping[str, TaskResult], output: str | Path) -> None:
    """Raises ValueError where the table's columns were answered by different weights or under different budgets."""
    names = {task_name(benchmark, protocol) for benchmark in table.benchmarks for protocol in PROTOCOLS}
    seen: dict[str, list[str]] = {}
    for name in sorted(names & set(results)):
        task = results[name].task
        if task["samples"]:
            seen.setdefault(f"{task['weights']} {task['gaze']} {task.get('policy')}", []).append(name)
    if len(seen) > 1:
        groups = "; ".join(", ".join(group) for group in seen.values())
        raise ValueError(
            f"{output} holds answers of {len(seen)} models or gaze settings ({groups}): run all of the row's tasks "
            "again with one model, or give another --output"
        )


def _cell(benchmark: Benchmark, protocol: str, result: TaskResult | None, row: Row, other: TaskResult | None) -> Cell:
    paper = row.paper.get(benchmark.in_table)
    if result is None or result.column is None:
        status = "INCOMPLETE: not run" if result is None else result.status
        return Cell(benchmark.in_table, benchmark.title, protocol, None, None, paper, 0, 0, 0, 0, status)
    column = result.column
    difference = interval = None
    if other is not None and other.column is not None:
        column.check_paired(other.column)
        difference = column.value - other.column.value
        interval = percentiles(column.draws - other.column.draws)
    return Cell(
        column=benchmark.in_table,
        title=benchmark.title,
        protocol=protocol,
        measured=column.value,
        ci95=column.interval(),
        paper=paper,
        n=column.samples,
        groups=column.groups,
        undecided=column.undecided,
        missing=column.missing,
        status=result.status,
        revision=result.task["revision"],
        attended=result.attended(),
        most_attended=result.most_attended(),
        difference=difference,
        difference_ci95=interval,
    )


def _average_cell(
    table: Table,
    name: str,
    row: Row,
    protocol: str,
    columns: Mapping[str, ScoreColumn],
    others: Mapping[str, ScoreColumn],
) -> Cell:
    """The average over the complete columns, beside the paper's over the same ones."""
    whole = set(columns) == set(table.average_of)
    rule = table.averages[name]
    paper = row.paper.get(name)
    if not whole:
        same = {name: row.paper[name] for name in columns if name in row.paper}
        paper = average(rule, same) if len(same) == len(columns) else None
    left_out = len(table.average_of) - len(columns)
    status = "complete" if whole else f"INCOMPLETE: {left_out} of {len(table.average_of)} columns left out"
    measured, draws = _averaged(rule, columns)
    difference = interval = None
    if others and set(others) == set(columns):
        other, other_draws = _averaged(rule, others)
        difference, interval = measured - other, percentiles(draws - other_draws)
    return Cell(
        column=name,
        title=RULES[rule],
        average=True,
        protocol=protocol,
        measured=measured,
        ci95=None if draws is None else percentiles(draws),
        paper=paper,
        n=sum(column.samples for column in columns.values()),
        groups=sum(column.groups for column in columns.values()),
        undecided=sum(column.undecided for column in columns.values()),
        missing=0,
        status=f"{status} ({table.average_status})" if table.average_status else status,
        difference=difference,
        difference_ci95=interval,
    )


def _averaged(rule: Average, columns: Mapping[str, ScoreColumn]) -> tuple[Any, Any]:
    """The average of figures, and of their bootstrap draws."""
    values = average(rule, {name: column.value for name, column in columns.items()})
    return values, average(rule, {name: column.draws for name, column in columns.items()})


def _notes(table: Table, row: Row, cells: Sequence[Cell]) -> list[str]:
    notes = [f"This row is for another checkpoint than the options make: {row.needs}."] if row.needs else []
    if row.kv_published:
        notes.append(f"The row's KV size is published as {row.kv_published}; {row.kv_size} is our reading of it.")
    counted = {kv_text(cell.attended) for cell in cells if cell.attended is not None}
    if row.tokens_per_frame is not None:
        # Videos differ in length: each holds what the budget allows, or all that it has.
        largest = [cell.most_attended for cell in cells if cell.most_attended is not None]
        counted = {kv_text(one) for one in largest if one["visual"] != min(float(row.kv_size), one["of"])}
    elif any(text.split(" of ")[0] == row.kv_size for text in counted):
        counted = set()
    if counted:
        notes.append(
            f"The row's KV size is {row.kv_size}, but {', '.join(sorted(counted))} entries were counted: this model "
            "has another grid, region size or number of context tokens than the paper's."
        )
    if table.average_status:
        notes.append(f"Average over {', '.join(table.average_of)}: {table.average_status}.")
    return notes


def _frame_notes(table: Table, row: Row, results: Mapping[str, TaskResult]) -> list[str]:
    """Whether the videos were shown as the row has them: tokens of a frame, and how frames were chosen."""
    notes, wanted = [], row.frame_options()
    names = {task_name(one, protocol) for one in table.benchmarks if one.video for protocol in PROTOCOLS}
    for name in sorted(names & set(results)):
        task = results[name].task
        if not task["samples"]:
            continue
        height, width = task["grid"]
        if row.tokens_per_frame not in (None, height * width):
            notes.append(f"{name}: a frame has {height * width} visual tokens, {row.tokens_per_frame} in the row.")
        shown = task.get("frames") or {}
        for option, value in wanted.items():
            if option in shown and shown[option] != value:
                notes.append(f"{name}: answered with {option}={shown[option]}, the row has {value}.")
    return notes


def kv_text(attended: Mapping[str, float] | None) -> str:
    """Counted entries as "72+4 of 576"; without context tokens "576 of 576"."""
    if attended is None:
        return "–"
    context = f"+{attended['context']:.4g}" if attended["context"] else ""
    return f"{attended['visual']:.4g}{context} of {attended['of']:.4g}"
