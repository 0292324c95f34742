"""Whether a step is done: what it wrote is read and checked, so that a half-written or changed output is not taken for
one. No flag file alone says so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cambrian_gaze.evaluation.benchmarks import protocols
from cambrian_gaze.evaluation.results import TaskResult, read_results, task_name
from cambrian_gaze.files import write_json
from cambrian_gaze.models.folders.folder_check import read_object
from cambrian_gaze.models.folders.lineage import read_lineage, weights_digest
from cambrian_gaze.reproduce.commands import Options, Step
from cambrian_gaze.reproduce.rows import Chain
from cambrian_gaze.training.config.config import gather
from cambrian_gaze.training.launch.ranks import FLAG
from cambrian_gaze.training.metrics.log import LOG_NAME

RECORD = "reproduce.json"
"""Beside the answers: the digest of the weights that gave them, and what the answers call those weights."""

_ELSEWHERE = {FLAG, "per_device_train_batch_size", "gradient_accumulation_steps", "deepspeed", "dataloader_num_workers"}
_ELSEWHERE |= {"dataloader_persistent_workers", "disable_tqdm", "report_to", "logging_steps", "save_steps"}
_ELSEWHERE |= {"save_total_limit", "verify_checkpoint"}
"""Keys of a run that do not change what is learned."""


class OtherRunError(ValueError):
    """An output folder that holds another run."""


def unfinished(step: Step, steps: list[Step], chain: Chain, options: Options) -> str | None:
    """Why a step has to run (again), or None where its output is there and is what it should be.

    Raises: OtherRunError where its folder holds the output of another run, which would be overwritten.
    """
    if step.run is not None:
        return _training(step, steps)
    if step.name == "evaluation":
        return _evaluation(step, steps, chain, options)
    return _table(step, chain, options)


def _training(step: Step, steps: list[Step]) -> str | None:
    folder = step.output
    _check_same_run(step)
    if not (folder / "lineage.json").is_file():
        return "not finished" if folder.exists() else "not begun"
    try:
        lineage = read_lineage(folder)
        if weights_digest(folder) != lineage["weights"]:
            return "its weights are not those that were written"
    except ValueError as error:
        return f"its model cannot be read ({error})"
    if (reason := _ended(folder, lineage["made_by"])) is not None:
        return reason
    number = steps.index(step)
    if number == 0:
        return None
    started_from = {parent["role"]: parent for parent in lineage["parents"]}
    before = steps[number - 1].output
    if step.name == "video":
        made_of = started_from.get("model", {}).get("lineage", {}).get("weights")
        now = read_lineage(before)["weights"] if (before / "lineage.json").is_file() else None
    else:
        made_of = started_from.get("projector", {}).get("weights")
        file = before / "mm_projector.safetensors"
        now = weights_digest(file) if file.is_file() else None
    if made_of != now:
        raise OtherRunError(
            f"{folder} was trained from another {steps[number - 1].name} than the one in {before}: move {folder} away, "
            "or give another --work"
        )
    return None


def _check_same_run(step: Step) -> None:
    """Raises: OtherRunError where the folder's run had other settings."""
    file = step.output / "run_config.json"
    if not file.is_file():
        return
    there = read_object(file).get("values")
    if not isinstance(there, dict):
        raise ValueError(f"{file} does not say the settings of its run; move {step.output} away")
    here = json.loads(json.dumps(gather(step.words[1:])[0]))
    keys = sorted(key for key in {*there, *here} - _ELSEWHERE if there.get(key) != here.get(key))
    if keys:
        differences = "; ".join(f"{key} is {there.get(key)!r} there and {here.get(key)!r} here" for key in keys[:4])
        raise OtherRunError(
            f"{step.output} holds a run of other settings ({differences}): move it away, or give another --work"
        )


def _ended(folder: Path, made_by: str) -> str | None:
    """The last attempt must have ended, at the step that the weights were saved at."""
    last: dict[str, Any] = {}
    for line in (folder / LOG_NAME).read_text(encoding="utf-8").splitlines() if (folder / LOG_NAME).is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("event") in ("start", "end"):
            last = entry
    saved_at = re.search(r"step (\d+)", made_by)
    if last.get("event") != "end" or saved_at is None or last.get("step") != int(saved_at[1]):
        return "its last attempt has not ended"
    return None


def results_of(step: Step, chain: Chain, options: Options) -> dict[str, TaskResult] | None:
    """The row's tasks in the output folder; None where some are not there."""
    try:
        found = read_results(step.output)
    except ValueError:
        return None
    names = [task_name(one, protocol) for one in chain.table.benchmarks for protocol in protocols(options.protocol)]
    return {name: found[name] for name in names} if set(names) <= set(found) else None


def _evaluation(step: Step, steps: list[Step], chain: Chain, options: Options) -> str | None:
    results = results_of(step, chain, options)
    if results is None:
        return "not all benchmarks were answered" if step.output.exists() else "not begun"
    for name, result in results.items():
        if result.task["error"]:
            return f"{name} failed: {result.task['error']}"
        if missing := sum(line["answer"] is None for line in result.lines):
            return f"{missing} answers of {name} are missing"
    record = _read_record(step.output)
    if record is None:
        return "not recorded which weights answered"
    if {result.task["weights"] for result in results.values()} != {record["answered_by"]}:
        return "its answers are of several models"
    if not (steps[-3].output / "lineage.json").is_file() or record["model"] != weights_digest(steps[-3].output):
        return "its answers are of other weights"
    return None


def record_evaluation(step: Step, model: Path, chain: Chain, options: Options) -> None:
    """Write down, after the answers of a whole evaluation, which weights gave them.

    Raises: ValueError where they are not of one model, or are not all there.
    """
    results = results_of(step, chain, options)
    answered_by = {result.task["weights"] for result in results.values()} if results else set()
    if len(answered_by) != 1:
        raise ValueError(f"{step.output} holds answers of {len(answered_by)} models; run the evaluation again")
    write_json(step.output / RECORD, {"model": weights_digest(model), "answered_by": answered_by.pop()})


def _read_record(folder: Path) -> dict[str, str] | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"model", "answered_by"} <= set(record) else None


def _table(step: Step, chain: Chain, options: Options) -> str | None:
    """The table must say what the answers score."""
    try:
        said = json.loads((step.output / "table.json").read_text(encoding="utf-8"))
        measured = {(cell["column"], cell["protocol"]): cell["measured"] for cell in said["cells"]}
    except (OSError, ValueError, KeyError, TypeError):
        return "not written"
    results = results_of(step, chain, options)
    if results is None or not all((step.output / f"table.{kind}").is_file() for kind in ("md", "csv", "html")):
        return "not written"
    for result in results.values():
        value = None if result.column is None else result.column.value
        if measured.get((result.benchmark.in_table, result.protocol), "nothing") != value:
            return f"it is not what the answers score ({result.benchmark.title}, {result.protocol})"
    return None
