"""One HTML page about a run, from the files in its `output_dir`: curves, samples, faults, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from cambrian_gaze.data.quarantine import read_quarantine
from cambrian_gaze.training.config.task_arguments import FIGURES
from cambrian_gaze.training.faults.bad_steps import LOG_NAME as BAD_STEPS
from cambrian_gaze.training.metrics.log import LOG_NAME, read_log
from cambrian_gaze.training.metrics.samples import FOLDER as SAMPLES
from cambrian_gaze.viz import html
from cambrian_gaze.viz.charts.charts import Series
from cambrian_gaze.viz.html import Column, Table
from cambrian_gaze.viz.panes import write_panes
from cambrian_gaze.viz.report import Curve, Link, Report, report_values
from cambrian_gaze.viz.trace import Trace
from cambrian_gaze.viz.viewer import write_viewer

NAME = "summary.html"
SHOWN_SAMPLES = 6
"""Pictures on the page: the first, the last, and others evenly between."""
SHOWN_TRACES = 3
"""Traces in the page beside it, chosen in the same way."""

Lines = Sequence[Mapping[str, Any]]


def write_summary(run_dir: Path | str, output: Path | str | None = None) -> Path:
    """Write the page, by default `summary.html` in `run_dir`, and where samples left traces a page of these beside it
    (`summary_gaze.html`). Returns its path.

    Raises: ValueError where no training step was logged there.
    """
    run_dir = Path(run_dir)
    lines = read_log(run_dir)
    if not lines:
        raise ValueError(f"{run_dir / LOG_NAME} holds no training step; name the output_dir of a run that has begun")
    config = _read_json(run_dir / "run_config.json").get("values", {})
    ends, last = read_log(run_dir, "end"), lines[-1]
    starts = [line for line in _read_lines(run_dir / LOG_NAME) if line["event"] == "start"]
    planned = starts[-1].get("max_steps")
    target = Path(run_dir / NAME if output is None else output)
    viewer, lost = _viewer(run_dir / SAMPLES, target.with_name(f"{target.stem}_gaze.html"))
    report = Report(
        title=f"Training: {config.get('run_name') or run_dir.resolve().name}",
        subtitle=f"step {last['step']:,}" + (f" of {planned:,}" if planned else ""),
        tiles=_tiles(lines),
        curves=_curves(lines, read_log(run_dir, "eval")),
        facts={name: _short(value) for name, value in sorted(config.items())},
        notes=[*_notes(lines, ends), *lost],
    )
    faults = [
        _faults("Samples that could not be used", read_quarantine(run_dir / "quarantine.jsonl")),
        _faults("Steps left out", _read_lines(run_dir / BAD_STEPS)),
    ]
    values = {"samples": _samples(run_dir / SAMPLES), "faults_found": [one for one in faults if one[1].rows]}
    values["viewer"] = viewer
    return html.write(target, "training.html", **report_values(report), **values)


def _tiles(lines: Lines) -> list[tuple[str, str, str]]:
    last = lines[-1]
    tokens = last["visual_tokens_per_s"] + last["text_tokens_per_s"]
    tiles = [
        ("Loss", f"{last['loss']:.4g}", f"at first {lines[0]['loss']:.4g}"),
        ("Tokens per second", f"{tokens:,.0f}", f"{last['step_seconds']:.3g} s per step"),
    ]
    if "mfu" in last:
        tiles.append(("MFU", f"{last['mfu']:.1%}", "of the devices' peak"))
    if "data_wait" in last:
        tiles.append(("Waiting for data", f"{last['data_wait']:.1%}", "of the time, slowest rank"))
        tiles.append(("Memory", f"{last['memory_gib']:.3g} GiB", "peak, fullest rank"))
    if looked := [line for line in lines if "attended_kv_share" in line]:
        tiles.append(("Attended visual KV", f"{looked[-1]['attended_kv_share']:.1%}", f"K {looked[-1]['k']:.3g}"))
    if bad := last.get("bad_steps", 0):
        tiles.append(("Steps left out", f"{bad:.0f}", "see below"))
    return tiles


def _curves(lines: Lines, evaluations: Lines) -> list[Curve]:
    def series(key: str, name: str, of: Lines = lines, step: bool = False) -> list[Series]:
        there = [line for line in of if isinstance(line.get(key), int | float)]
        return [Series(name, [line["step"] for line in there], [line[key] for line in there], step)] if there else []

    def family(prefix: str) -> list[Series]:
        names = sorted({key for line in lines for key in line if key.startswith(prefix)})
        return [one for name in names for one in series(name, name.removeprefix(prefix))]

    def task(name: str) -> Curve:
        figures = [one for figure in FIGURES for one in series(f"{name}_{figure}", figure, evaluations)]
        return Curve(f"Score: {name.removeprefix('eval_')}", figures, y_label="score and 95 % interval")

    tasks = sorted({key.removesuffix("_score") for line in evaluations for key in line if key.endswith("_score")})
    loss = series("loss", "training") + series("eval_loss", "evaluation", evaluations)
    spread = series("routing_entropy", "entropy") + series("region_coverage", "coverage")
    spread += series("probe_mass", "dense mass in TopK")
    speed = series("visual_tokens_per_s", "visual") + series("text_tokens_per_s", "text")
    shares = series("data_wait", "data wait") + series("mfu", "MFU") + series("padding", "padding")
    norm = series("grad_norm", "over all ranks")
    curves = [
        Curve("Loss", loss, y_label="cross-entropy"),
        *map(task, tasks),
        Curve("Loss by modality", family("loss/modality/"), y_label="cross-entropy"),
        Curve("Loss by source", family("loss/source/"), y_label="cross-entropy"),
        Curve("Gradient norm", norm, y_label="before clipping", log_y=True),
        Curve("Learning rate", family("lr/"), y_min=0.0),
        Curve("Regions kept", series("k", "K", step=True), y_min=0.0),
        Curve("Attended visual KV", series("attended_kv_share", "share"), y_label="of those before", y_min=0.0),
        Curve("How choices spread", spread, y_min=0.0, y_max=1.0),
        Curve("Throughput", speed, y_label="tokens per second", y_min=0.0),
        Curve("Data wait, MFU, padding", shares, y_label="share", y_min=0.0),
        Curve("Peak memory", series("memory_gib", "fullest rank"), y_label="GiB", y_min=0.0),
    ]
    return [curve for curve in curves if curve.series]


def _notes(lines: Lines, ends: Lines) -> list[str]:
    attempts = len({line["attempt"] for line in lines})
    notes = [f"{attempts} attempts" if attempts > 1 else "1 attempt"]
    if ends and ends[-1].get("step") == lines[-1]["step"] and "train_runtime" in ends[-1]:
        notes.append(f"the last took {ends[-1]['train_runtime']:,.0f} s")
    notes.append(f"{lines[-1].get('quarantined', 0):.0f} samples quarantined, {lines[-1].get('filled', 0):.0f} filled")
    return notes


def _steps(folder: Path, suffix: str, most: int) -> list[tuple[int, Path]]:
    """(step, file) of the samples: the first, the last, and others evenly between, `most` in all."""
    found = sorted((int(path.stem.removeprefix("step-")), path) for path in folder.glob(f"step-*{suffix}"))
    if len(found) <= most:
        return found
    return [found[place] for place in sorted({round(n * (len(found) - 1) / (most - 1)) for n in range(most)})]


def _samples(folder: Path) -> list[dict[str, Any]]:
    """Step, picture and answer of the sample at some steps."""
    shown = []
    for step, path in _steps(folder, ".png", SHOWN_SAMPLES):
        answer = path.with_suffix(".txt")
        said = answer.read_text(encoding="utf-8").strip() if answer.exists() else ""
        with Image.open(path) as picture:
            shown.append({"step": step, "picture": picture.convert("RGB"), "said": said})
    return shown


def _viewer(folder: Path, page: Path) -> tuple[Link | None, list[str]]:
    """Write the page of the sample's traces; the link to it, if any, and which traces could not be shown."""
    traces, lost = [], []
    for step, path in _steps(folder, ".safetensors", SHOWN_TRACES):
        try:
            traces.append((step, Trace.load(path)))
        except (OSError, ValueError) as error:
            lost.append(f"not in the viewer: {error}")
    if not traces:
        return None, lost
    try:
        if len(traces) == 1:
            write_viewer(page, traces[0][1])
        else:
            write_panes(page, [(f"step {step:,}", trace) for step, trace in traces])
    except ValueError as error:  # a picture
        return None, [*lost, f"no viewer: {error}"]
    *first, last = [f"{step:,}" for step, _ in traces]
    steps = f"steps {', '.join(first)} and {last}" if first else f"step {last}"
    note = "What it looked at, word by word, by layer and head, with the likeliest alternatives."
    if first:
        note = f"As training went on: {note[0].lower()}{note[1:]} The panes go together."
    return Link(page.name, f"Open {steps} in the viewer", note), lost


def _faults(title: str, entries: Lines, most: int = 50) -> tuple[str, Table, int]:
    """Title, the first entries as a table, and how many more there are."""
    columns = ["step", "rank", "source", "file", Column("row", number=True), "id", "why"]
    keys = ("step", "rank", "source", "file", "row", "id", "reason")
    rows = [[entry.get(key) for key in keys] for entry in entries[:most]]
    return title, Table(columns, rows), max(0, len(entries) - most)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Every line but one that a killed run left half-written."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
