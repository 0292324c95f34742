"""Rows of the tables, and the training runs that lead to each: read from `train/rows.yaml` and the configurations."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cambrian_gaze.declarations import declaration
from cambrian_gaze.evaluation.tables.table import Table, TableRow, read_table
from cambrian_gaze.training.config.layers import read_layers

ROWS = Path("train") / "rows.yaml"
CONFIGS = Path("train") / "configs"


@dataclass(frozen=True)
class Run:
    """One training run of a row."""

    name: str
    """`stage1`, `stage2` or `video`."""
    config: Path
    """Its configuration, as `cambrian-gaze train` takes it."""
    values: dict[str, Any]
    """What the configuration says, its bases included."""

    @property
    def output(self) -> Path:
        """Where the configuration puts its model."""
        return Path(self.values["output_dir"])


@dataclass(frozen=True)
class Chain:
    """A row and the runs that lead to it, in order."""

    table_name: str
    table_path: Path
    table: Table
    row: TableRow
    runs: tuple[Run, ...]

    @property
    def is_video(self) -> bool:
        return self.runs[-1].name == "video"


def read_rows() -> dict[str, dict[str, Any]]:
    """Table → `table` (its file) and `rows` (name → configuration)."""
    return yaml.safe_load(declaration(ROWS).read_text(encoding="utf-8"))


def find_chain(table_name: str, row_name: str) -> Chain:
    """A row by its names.

    Raises: ValueError for an unknown table or row, with the nearest; for a row that is published for comparison alone;
        and where a configuration starts from a run that is not there.
    """
    known = read_rows()
    if table_name not in known:
        raise ValueError(f"no table {table_name!r}{_nearest(table_name, list(known))}")
    entry = known[table_name]
    path = Path(entry["table"])
    table = read_table(path)
    names = list(entry["rows"])
    if row_name not in names:
        if any(row.name == row_name for row in table.rows):
            raise ValueError(
                f"row {row_name!r} of {table_name} is another model's, shown for comparison; nothing here trains it"
                f"{_nearest(row_name, names)}"
            )
        raise ValueError(f"{table_name} has no row {row_name!r}{_nearest(row_name, names)}")
    runs = _runs(entry["rows"][row_name])
    return Chain(table_name, path, table, table.row(row_name), runs)


def list_rows() -> str:
    """Every row that can be reproduced, with its runs, as text."""
    lines = []
    for table, entry in read_rows().items():
        lines.append(f"{table} ({entry['table']})")
        for name, config in entry["rows"].items():
            runs = " → ".join(run.config.stem for run in _runs(config))
            lines.append(f"  {name}\n      {runs}")
    return "\n".join(lines)


def _runs(config: str) -> tuple[Run, ...]:
    """The run of a configuration and those before it, by the models that they start from."""
    found = {path: _values(path) for path in _configs()}
    by_output = {str(Path(values["output_dir"])): path for path, values in found.items()}
    path, chain = CONFIGS / f"{config}.yaml", []
    if path not in found:
        raise ValueError(f"{ROWS} names {config!r}, but there is no {path}")
    while path is not None:
        values = found[path]
        chain.insert(0, Run(_kind(values), path, values))
        path = _parent(values, by_output)
    return tuple(chain)


def _configs() -> list[Path]:
    """The configurations of the paper's runs, by the names that they have in a clone."""
    folder = declaration(ROWS).parent / CONFIGS.name
    return [CONFIGS / path.name for path in sorted(folder.glob("*_cambrian_*.yaml"))]


def _parent(values: dict[str, Any], by_output: dict[str, Path]) -> Path | None:
    adapter, model = values.get("pretrain_mm_mlp_adapter"), values.get("model_name_or_path")
    starts = [str(Path(adapter).parent)] if adapter else []
    starts += [str(Path(model))] if model else []
    return next((by_output[start] for start in starts if start in by_output), None)


def _values(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _, layer in read_layers(path):
        values |= layer
    return values


def _kind(values: dict[str, Any]) -> str:
    return "stage1" if values["stage"] == 1 else "video" if values.get("video_folder") else "stage2"


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} There are: {', '.join(known)}"
