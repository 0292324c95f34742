"""What a run leaves on disk, and what is read from it: tasks, journals, answers, scores.

    OUTPUT/tasks/mme.cambrian.json    what was to be answered, under which settings, and what went wrong
    OUTPUT/journal/rank-00000.jsonl   answers as they came, per process
    OUTPUT/answers/mme.cambrian.jsonl answers in the order of the samples, made from the two above

Neither reading nor scoring needs the model or the benchmark's data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cambrian_gaze.baselines.registry import make_policy
from cambrian_gaze.evaluation.benchmarks import BENCHMARKS
from cambrian_gaze.evaluation.benchmarks.declare import Benchmark
from cambrian_gaze.evaluation.cost.counts import expected_attended
from cambrian_gaze.evaluation.journal import read_entries
from cambrian_gaze.evaluation.tables.columns import ScoreColumn, score_column
from cambrian_gaze.files import write_text
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.plugins import remedy, remember


def task_name(benchmark: Benchmark, protocol: str) -> str:
    """`mme.cambrian`: a benchmark under a protocol."""
    return f"{benchmark.name}.{protocol}"


def journal_path(output: Path, rank: int) -> Path:
    """The journal that a rank appends to."""
    return output / "journal" / f"rank-{rank:05d}.jsonl"


def journals(output: Path) -> list[Path]:
    """All journals of a run, whatever numbers of processes wrote them."""
    return sorted((output / "journal").glob("rank-*.jsonl"))


def write_task(output: Path, name: str, task: Mapping[str, Any]) -> Path:
    """Store what is to be answered, atomically."""
    return write_text(output / "tasks" / f"{name}.json", json.dumps(task, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class TaskResult:
    """A task with the answers that there are."""

    task: Mapping[str, Any]
    lines: list[dict[str, Any]]
    """One per sample: `id`, `group`, `stratum`, `target`, `prompt`, `answer` (None: missing), `tokens`, `attended`."""

    @property
    def benchmark(self) -> Benchmark:
        """Raises ValueError where the run's benchmark is not registered here."""
        name = self.task["benchmark"]
        if name not in BENCHMARKS:
            raise ValueError(
                f"this run answered the benchmark {name!r}, which is unknown here; "
                f"{remedy('benchmark', name, 'register_benchmark')}"
            )
        return BENCHMARKS[name]

    @property
    def protocol(self) -> str:
        return self.task["protocol"]

    @cached_property
    def column(self) -> ScoreColumn | None:
        """The scores; None where there is nothing to score."""
        return score_column(self.benchmark, self.protocol, self.lines) if self.lines else None

    @property
    def status(self) -> str:
        """`complete`, or `INCOMPLETE` or `FAILED` with the reason."""
        if self.task["error"]:
            return f"FAILED: {self.task['error']}"
        benchmark, rows = self.benchmark, self.task["rows"]
        reasons = []
        if rows != benchmark.rows:
            reasons.append(f"{rows} of {benchmark.rows} rows in the data")
        elif benchmark.samples is not None and self.task["available"] != benchmark.samples:
            reasons.append(f"{self.task['available']} of {benchmark.samples} samples in the data")
        if len(self.lines) < self.task["available"]:
            reasons.append(f"limited to {len(self.lines)} of {self.task['available']} samples")
        length = self.task["generation"]["max_new_tokens"]
        if length < benchmark.max_new_tokens:
            reasons.append(f"answers cut off at {length} of {benchmark.max_new_tokens} tokens")
        missing = sum(line["answer"] is None for line in self.lines)
        if missing:
            reasons.append(f"{missing} of {len(self.lines)} answers missing")
        return f"INCOMPLETE: {', '.join(reasons)}" if reasons else "complete"

    @property
    def complete(self) -> bool:
        return self.status == "complete"

    def attended(self) -> dict[str, float] | None:
        """Means over the answers of the KV entries that were counted: `visual`, `context`, `of`.

        Raises: RuntimeError where an answer about one picture differs from the cost model.
        """
        counts = [line["attended"] for line in self.lines if line["attended"] is not None]
        if not counts:
            return None
        height, width = self.task["grid"]
        config = GazeConfig.from_dict(self.task["gaze"])
        policy = dict(self.task["policy"]) if "policy" in self.task else None
        made = None if policy is None else make_policy(policy.pop("name"), policy)
        low, high, context = expected_attended((1, height, width), config, self.task["layers"], policy=made)
        for line in self.lines:
            count = line["attended"]
            if count is not None and count["of"] == height * width:
                if not low - 1e-6 <= count["visual"] <= high + 1e-6 or abs(count["context"] - context) > 1e-6:
                    raise RuntimeError(
                        f"{self.benchmark.name}, sample {line['id']!r}: counted {count['visual']:g}+"
                        f"{count['context']:g} KV entries, but the cost model says {high:g}+{context:g}"
                    )
        return {name: sum(count[name] for count in counts) / len(counts) for name in ("visual", "context", "of")}

    def most_attended(self) -> dict[str, float] | None:
        """The counts of the answer with the most visual tokens before it; None without answers."""
        counts = [line["attended"] for line in self.lines if line["attended"] is not None]
        return max(counts, key=lambda count: (count["of"], count["visual"]), default=None)

    def summary(self) -> dict[str, Any]:
        """The scores and how they came about, in JSON types."""
        column = self.column
        return {
            "benchmark": self.benchmark.name,
            "protocol": self.protocol,
            "value": None if column is None else column.value,
            "ci95": None if column is None else list(column.interval()),
            "n": len(self.lines),
            "groups": None if column is None else column.groups,
            "missing": None if column is None else column.missing,
            "empty": None if column is None else column.empty,
            "undecided": None if column is None else column.undecided,
            "status": self.status,
            "revision": self.task["revision"],
            "attended": self.attended(),
        }


def read_results(output: str | Path) -> dict[str, TaskResult]:
    """The tasks of a run by name, with their answers; `answers/` is written anew.

    Raises: ValueError where the folder holds no run.
    """
    output = Path(output)
    tasks = sorted((output / "tasks").glob("*.json"))
    if not tasks:
        raise ValueError(f"{output} holds no run (no {output / 'tasks'}/*.json); make one with: cambrian-gaze eval run")
    entries: dict[str, dict[str, Any]] = {}
    for path in journals(output):
        entries.update(read_entries(path)[0])
    results = {}
    for path in tasks:
        task = json.loads(path.read_text(encoding="utf-8"))
        remember(task.get("plugins"))
        lines = [_line(sample, entries.get(sample["key"])) for sample in task["samples"]]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(output / "answers" / f"{path.stem}.jsonl", text)
        results[path.stem] = TaskResult(task, lines)
    return results


def write_scores(output: Path, results: Mapping[str, TaskResult]) -> Path:
    """Store the summaries of all tasks in `scores.json`."""
    scores = {name: result.summary() for name, result in results.items()}
    return write_text(output / "scores.json", json.dumps(scores, indent=2, ensure_ascii=False) + "\n")


def _line(sample: Mapping[str, Any], entry: Mapping[str, Any] | None) -> dict[str, Any]:
    given = {name: None if entry is None else entry[name] for name in ("answer", "tokens", "attended")}
    return {**{name: value for name, value in sample.items() if name != "key"}, **given}
