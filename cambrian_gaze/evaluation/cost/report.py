"""Costs of attention, and scores of runs beside them, as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cambrian_gaze.evaluation.cost.cost import Cost
from cambrian_gaze.evaluation.journal import read_entries
from cambrian_gaze.evaluation.results import journals, read_results
from cambrian_gaze.files import write_text
from cambrian_gaze.machine import describe_machine, machine_line

_HEAD = (
    "phase", "arm", "KV attended, counted", "cost model", "attention FLOPs", "÷ dense", "routing FLOPs",
    "score matrix per head", "KV held", "KV read per step", "regions read", "union", "time", "peak memory",
)  # fmt: skip
_QUALITY = ("run", "task", "score", "95 % CI", "KV attended, counted", "s per answer", "ms per token", "status")


def quality(run: str | Path) -> list[dict[str, Any]]:
    """Score, KV entries counted and time of every task of a run (an `--output` of `cambrian-gaze eval run`).

    Times are an answer's shares of its batch; `ms_per_token` counts the prefill in. Raises: ValueError where the folder
    holds no run, RuntimeError where counts differ from the cost model.
    """
    run = Path(run)
    entries: dict[str, dict[str, Any]] = {}
    for path in journals(run):
        entries.update(read_entries(path)[0])
    rows = []
    for name, result in read_results(run).items():
        summary = result.summary()
        answered = [entries[one["key"]] for one in result.task["samples"] if one["key"] in entries]
        seconds, tokens = sum(e["seconds"] for e in answered), sum(len(e["tokens"]) for e in answered)
        times = {
            "seconds_per_answer": seconds / len(answered) if answered else None,
            "ms_per_token": 1e3 * seconds / tokens if tokens else None,
        }
        kept = {key: summary[key] for key in ("value", "ci95", "attended", "status")}
        rows.append({"run": str(run), "task": name, **kept, **times})
    return rows


def write_reports(costs: Sequence[Cost], about: dict[str, Any], runs: Sequence[dict[str, Any]], output: Path) -> str:
    """Write `cost.md` and `cost.json` below `output`; returns the Markdown."""
    machine = describe_machine(about["device"])
    text = f"# Cost of attention: {about['model']}\n\n{machine_line(machine)}\n\n{about['input']}\n\n"
    text += _table(_HEAD, [_cost_cells(cost, costs) for cost in costs])
    if runs:
        text += "\n## Quality beside it\n\n" + _table(_QUALITY, [_quality_cells(row) for row in runs])
    write_text(output / "cost.md", text)
    values = {**about, "machine": machine, "costs": [asdict(cost) for cost in costs], "quality": list(runs)}
    write_text(output / "cost.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    return text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cost_cells(cost: Cost, costs: Sequence[Cost]) -> list[str]:
    dense = next(one for one in costs if one.arm == "dense" and one.phase == cost.phase)
    low, high = f"{cost.model_low:g}", f"{cost.model_high:g}"
    return [
        cost.phase,
        cost.arm,
        f"{cost.visual:g}+{cost.context:g} of {cost.of}",
        low if low == high else f"{low} to {high}",
        _count(cost.attention_flops),
        f"{cost.attention_flops / dense.attention_flops:.1%}",
        _count(cost.routing_flops),
        _bytes(cost.score_bytes),
        _bytes(cost.kv_held_bytes),
        _bytes(cost.kv_read_bytes),
        "—" if cost.pages is None else f"{cost.pages:.1f}",
        "—" if cost.union is None else f"{cost.union:.1%}",
        f"{1e3 * cost.seconds:.2f} ms",
        _bytes(cost.peak_bytes),
    ]


def _quality_cells(row: dict[str, Any]) -> list[str]:
    attended = row["attended"]
    return [
        row["run"],
        row["task"],
        "—" if row["value"] is None else f"{row['value']:.1f}",
        "—" if row["ci95"] is None else "{:.1f} – {:.1f}".format(*row["ci95"]),
        "—" if attended is None else f"{attended['visual']:g}+{attended['context']:g} of {attended['of']:g}",
        "—" if row["seconds_per_answer"] is None else f"{row['seconds_per_answer']:.3f}",
        "—" if row["ms_per_token"] is None else f"{row['ms_per_token']:.2f}",
        row["status"],
    ]


def _count(value: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:g}"


def _bytes(value: float | None) -> str:
    if value is None:
        return "—"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"
