"""What a checkpoint says about its run, read as if a stranger had written it: types, ranges, and whether its parts say
the same. A checkpoint with a fault is passed over with the reason, and the one before it is taken."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerState

from cambrian_gaze.training.faults.bad_steps import STATE_NAME as GRAD_NORMS
from cambrian_gaze.training.faults.bad_steps import USUAL
from cambrian_gaze.training.order.position import FILE as POSITION
from cambrian_gaze.training.order.position import Position

TRAINER_STATE = "trainer_state.json"
LARGEST = 256 * 2**20
"""Bytes that such a file may have: a log of a million steps."""
MOST = 2**53
"""Counts beyond it are absurd."""


class StateError(ValueError):
    """A file of a checkpoint that cannot be believed; the message says why, beginning with the file's name."""


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises: StateError where it is no regular file, too large, or no JSON.
    """
    if not path.is_file():
        raise StateError(f"{path.name} is not there, or no regular file")
    try:
        if path.stat().st_size > LARGEST:
            raise StateError(f"{path.name} has {path.stat().st_size} bytes, which no run writes")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise error if isinstance(error, StateError) else StateError(f"{path.name} cannot be read ({error})") from error


def fault_of_states(folder: Path | str, step: int, needed: bool = True) -> str | None:
    """Why the states in a checkpoint of optimizer step `step` cannot be resumed from, or None. `needed`: those that
    resuming takes must be there."""
    checks = {TRAINER_STATE: _check_trainer_state, POSITION: _check_position, GRAD_NORMS: _check_norms}
    checks |= dict.fromkeys(sorted(path.name for path in Path(folder).glob("data_stream_*.json")), _check_stream)
    for name, check in checks.items():
        path = Path(folder) / name
        if not path.exists() and not path.is_symlink() and (not needed or name == GRAD_NORMS):
            continue
        try:
            check(read_json(path), step)
        except StateError as error:
            text = str(error)
            return text if text.startswith(name) else f"{name}: {text}"
    return None


def whole(value: Any, least: int = 0, most: int = MOST) -> bool:
    """Whether it is a whole number in a range; `True` is none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def number(value: Any, least: float = -math.inf) -> bool:
    """Whether it is a finite number of at least `least`; `True` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= least


def _need(ok: bool, what: str, value: Any) -> None:
    if not ok:
        shown = repr(value)
        raise StateError(f"{what}, it is {shown if len(shown) <= 80 else shown[:77] + '...'}")


def _fields(content: Any, allowed: set[str], tests: Mapping[str, tuple[Callable[[Any], bool], str]]) -> None:
    _need(isinstance(content, dict), "must hold an object", content)
    unknown = sorted(set(content) - allowed)
    _need(not unknown, "has keys that no run writes", unknown)
    for key, (ok, what) in tests.items():
        if key in content:
            _need(ok(content[key]), f"{key} must be {what}", content[key])


def _check_trainer_state(content: Any, step: int) -> None:
    def count(value: Any) -> bool:
        return whole(value)

    def maybe(ok: Callable[[Any], bool]) -> Callable[[Any], bool]:
        return lambda value: value is None or ok(value)

    def positive(value: Any) -> bool:
        return number(value, 0)

    def text(value: Any) -> bool:
        return isinstance(value, str)

    def records(value: Any) -> bool:
        return value is None or (isinstance(value, list) and all(isinstance(entry, dict) for entry in value))

    tests = {
        "global_step": (count, "a whole number"),
        "max_steps": (count, "a whole number"),
        "epoch": (maybe(positive), "a number from 0"),
        "num_train_epochs": (positive, "a number from 0"),
        **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), (maybe(positive), "a number from 0")),
        "train_batch_size": (maybe(lambda value: whole(value, 1)), "a whole number from 1"),
        "num_input_tokens_seen": (count, "a whole number"),
        "total_flos": (positive, "a number from 0"),
        "log_history": (records, "a list of objects"),
        "best_metric": (maybe(number), "a number or null"),
        "best_global_step": (maybe(count), "a whole number or null"),
        "best_model_checkpoint": (maybe(text), "a path or null"),
        "stateful_callbacks": (_is_callbacks, "an object of callbacks' states"),
        "trial_name": (maybe(text), "a text or null"),
        "trial_params": (maybe(lambda value: isinstance(value, dict)), "an object or null"),
        **dict.fromkeys(
            ("is_local_process_zero", "is_world_process_zero", "is_hyper_param_search"),
            (lambda value: isinstance(value, bool), "true or false"),
        ),
    }
    _fields(content, {field.name for field in dataclasses.fields(TrainerState)}, tests)
    _need("global_step" in content and "max_steps" in content, "must have global_step and max_steps", sorted(content))
    _need(content["global_step"] == step, f"global_step must be {step}, that of the checkpoint", content["global_step"])
    _need(content["max_steps"] >= step, f"max_steps must be at least {step}", content["max_steps"])


def _is_callbacks(value: Any) -> bool:
    if not isinstance(value, dict):
        return value is None
    states = [one for entry in value.values() for one in (entry if isinstance(entry, list) else [entry])]
    return all(isinstance(one, dict) and isinstance(one.get("args"), dict) for one in states)


def _check_position(content: Any, step: int) -> None:
    tests = {
        "epoch": (lambda value: whole(value, 0, step), f"a whole number from 0 to {step}, the steps taken"),
        "packs": (whole, "a whole number from 0"),
        "step": (lambda value: value == step and whole(value), f"{step}, that of the checkpoint"),
        "global_batch": (lambda value: value is None or whole(value, 1), "a whole number from 1, or null"),
        "order": (lambda value: isinstance(value, dict), "an object"),
    }
    _fields(content, {field.name for field in dataclasses.fields(Position)}, tests)
    _need({"epoch", "packs", "step"} <= set(content), "must have epoch, packs and step", sorted(content))
    rows, packs = content.get("order", {}).get("rows"), content["packs"]
    if rows is not None:
        _need(whole(rows), "order.rows must be a whole number from 0", rows)
        _need(packs <= rows, f"packs must be at most the {rows} rows of the data", packs)


def _check_norms(content: Any, step: int) -> None:
    def norms(value: Any) -> bool:
        return isinstance(value, list) and len(value) <= USUAL and all(number(norm, 0) for norm in value)

    def steps(value: Any) -> bool:
        return isinstance(value, list) and all(whole(one, 1, step) for one in value) and value == sorted(set(value))

    tests = {
        "norms": (norms, f"a list of at most {USUAL} numbers from 0"),
        "steps": (steps, f"a list of rising steps from 1 to {step}"),
    }
    _fields(content, set(tests), tests)
    _need(set(content) == set(tests), "must have norms and steps", sorted(content))


def _check_stream(content: Any, step: int) -> None:
    tests = {
        "source": (whole, "a whole number from 0"),
        "stream": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    }
    _fields(content, set(tests), tests)
    _need(set(content) == set(tests), "must have source and stream", sorted(content))


def fault_of_marker(content: Any, folder_step: int | None) -> str | None:
    """Why a `complete.json` cannot be believed, or None. `folder_step`: the N of `checkpoint-N`, where it is known."""

    def files(value: Any) -> bool:
        return isinstance(value, dict) and all(map(_is_file_entry, value.keys(), value.values()))

    tests = {
        "step": (whole, "a whole number from 0"),
        "time": (lambda value: number(value, 0), "seconds since 1970"),
        "world_size": (lambda value: whole(value, 1, 2**20), "a whole number of ranks"),
        "zero_stage": (lambda value: value is None or whole(value, 0, 3), "null, 0, 1, 2 or 3"),
        "resumable": (lambda value: isinstance(value, bool), "true or false"),
        "attention": (lambda value: isinstance(value, dict), "an object"),
        "files": (files, "the files with their sizes and SHA-256, inside the checkpoint"),
    }
    try:
        allowed = set(content) if isinstance(content, dict) else set()
        _fields(content, allowed, tests)
        _need({"step", "files"} <= set(content), "must have step and files", sorted(content))
        if folder_step is not None:
            _need(content["step"] == folder_step, f"step must be {folder_step}, as the folder's name", content["step"])
    except StateError as error:
        return str(error)
    return None


def _is_file_entry(name: Any, entry: Any) -> bool:
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts or not name:
        return False
    if not isinstance(entry, dict) or not whole(entry.get("size")):
        return False
    return isinstance(entry.get("sha256"), str)
