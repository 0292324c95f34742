"""A row of a table filled with what a run measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cambrian_gaze.evaluation.benchmarks import PROTOCOLS, Benchmark
from cambrian_gaze.evaluation.results import TaskResult, read_results, task_name
from cambrian_gaze.evaluation.tables.columns import ScoreColumn
from cambrian_gaze.evaluation.tables.intervals import percentiles
from cambrian_gaze.evaluation.tables.table import RULES, Average, Table, TableRow, average


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
    row: TableRow
    cells: list[Cell]
    """Columns in order, protocol after protocol; each protocol ends with the averages, in columns of their names."""
    model: str
    against: str | None = None
    notes: list[str] = field(default_factory=list)


def fill_row(table: Table, row: TableRow, output: str | Path, against: str | Path | None = None) -> Filled:
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


def _cell(
    benchmark: Benchmark, protocol: str, result: TaskResult | None, row: TableRow, other: TaskResult | None
) -> Cell:
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
    row: TableRow,
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


def _notes(table: Table, row: TableRow, cells: Sequence[Cell]) -> list[str]:
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


def _frame_notes(table: Table, row: TableRow, results: Mapping[str, TaskResult]) -> list[str]:
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
