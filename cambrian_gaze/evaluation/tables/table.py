"""A table of the paper: its rows and figures from a YAML file, and its averages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.declarations import declaration
from cambrian_gaze.evaluation.benchmarks import BENCHMARKS, Benchmark

Average = Literal["mme_half", "mean"]
RULES: dict[str, str] = {"mme_half": "Avg, rule of arXiv v1", "mean": "Avg, published rule"}
"""Ways to average, and what reports call them: half MME-P / 20 and half the mean of the others, or the mean of all."""
MME_COLUMN = "mme_p"
MME_SCALE = 20.0
"""MME-P in points over this is on the scale of the other columns."""

FRAMES = "video_"
"""What the options of frames begin with in a row's `model_args`."""


@dataclass(frozen=True)
class TableRow:
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
    rows: Sequence[TableRow]
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

    def row(self, name: str) -> TableRow:
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


def _row(entry: Any, columns: Sequence[str], where: str) -> TableRow:
    wanted, more = {"name", "kv_size", "paper"}, {"model_args", "kv_published", "tokens_per_frame", "needs"}
    if not isinstance(entry, dict) or not wanted <= set(entry) <= wanted | more:
        raise ValueError(f"{where}: a row holds {', '.join(sorted(wanted))}, and may hold {', '.join(sorted(more))}")
    unknown = sorted(set(entry["paper"]) - set(columns))
    if unknown:
        raise ValueError(f"{where}: paper holds figures of unknown columns: {', '.join(unknown)}")
    row = TableRow(**{**entry, "kv_size": str(entry["kv_size"])})
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
