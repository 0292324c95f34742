"""Results as JSON: which command ran where and when, and its rows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from cambrian_gaze import measure
from cambrian_gaze.bench.attention import SECTION_OF_CHOICE
from cambrian_gaze.bench.decode import SIZES
from cambrian_gaze.files import write_text
from cambrian_gaze.machine import describe_machine

OUT_OF_MEMORY = "out of memory"
_SIZE_FLAGS = ("--heads", "--kv-heads", "--head-dim", "--text", "--context")


@dataclass(frozen=True)
class Run:
    """The rows of one table: one command on one kind of device."""

    section: str
    """Which of the bench's tables, "bench decode layers" for example."""
    device: str
    """"cpu" or "cuda"."""
    command: str
    """As it is typed, without the options that say where results go."""
    date: str
    """ISO 8601."""
    machine: Mapping[str, str]
    """Hardware and versions, see `describe_machine`."""
    rows: Sequence[measure.Row]
    note: str | None = None
    """What a reader must know of this run alone."""

    @property
    def told(self) -> list[measure.Row]:
        """The rows that tell something: measured ones, and those that memory did not suffice for; of what `auto` would
        take also those that say why a backend was dropped."""
        return [row for row in self.rows if _measured(row) or self._tells(row.get("note"))]

    def _tells(self, note: str | None) -> bool:
        if self.section == SECTION_OF_CHOICE:
            return note not in (None, measure.NO_TIME_LEFT)
        return note == OUT_OF_MEMORY

    @property
    def sized(self) -> list[measure.Row]:
        """`told`, with the layer's sizes in the rows of `bench decode` that name none: the defaults, unless the command
        has given others."""
        words = [word.partition("=")[0] for word in shlex.split(self.command) if word.startswith("--")]
        given = any(flag.startswith(word) for flag in _SIZE_FLAGS for word in words)
        if given or not self.section.startswith("bench decode"):
            return self.told
        return [{**SIZES, **row} for row in self.told]

    @property
    def open(self) -> list[measure.Row]:
        """The rows that nothing was measured of, with the reason as their note."""
        told = {id(row) for row in self.told}
        return [row for row in self.rows if id(row) not in told]


def _measured(row: measure.Row) -> bool:
    """Time, memory, or an error by which a backend was dropped."""
    return any(row.get(name) is not None for name in ("median_us", "peak_bytes", "max_error"))


def as_runs(rows: Sequence[measure.Row], section: str, words: Sequence[str]) -> list[Run]:
    """Rows as runs of today, one per section and device; `section` is that of rows that name none, `words` are the
    command's."""
    command, today = shlex.join(["cambrian-gaze", *words]), date.today().isoformat()
    groups: dict[tuple[str, str], list[measure.Row]] = {}
    for row in rows:
        key = str(row.get("section", section)), str(row["device"]).partition(":")[0]
        groups.setdefault(key, []).append({name: value for name, value in row.items() if name != "section"})
    machines = {}
    for (_, device), mine in groups.items():
        if any(map(_measured, mine)):
            machines[device] = describe_machine(device)
    return [
        Run(name, device, command, today, machines.get(device, {}), mine) for (name, device), mine in groups.items()
    ]


def write(path: str | Path, bench: str, runs: Iterable[Run]) -> None:
    """Store a bench's runs, a line per row, whole or not at all."""
    blocks = []
    for run in runs:
        about = {name: value for name, value in asdict(run).items() if name != "rows"}
        head = "".join(f"   {json.dumps(name)}: {_compact(value)},\n" for name, value in about.items())
        rows = ",\n".join(f"    {_compact(row)}" for row in run.rows)
        blocks.append(f'  {{\n{head}   "rows": [\n{rows}\n   ]\n  }}')
    write_text(path, f'{{\n "bench": {json.dumps(bench)},\n "runs": [\n' + ",\n".join(blocks) + "\n ]\n}\n")


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def read(path: str | Path) -> tuple[str, list[Run]]:
    """(bench, runs) of a file. Raises ValueError with the file's name for anything that `write` does not write."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return content["bench"], [Run(**run) for run in content["runs"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} holds no results of a bench: {error!r}") from error


def merged(old: Iterable[Run], new: Iterable[Run]) -> list[Run]:
    """The old runs in their order, each replaced by the new one of its section and device, then what is new."""
    runs = {(run.section, run.device): run for run in old}
    runs.update({(run.section, run.device): run for run in new})
    return list(runs.values())
