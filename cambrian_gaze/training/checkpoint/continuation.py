"""Whether a run goes on, is finished, or would be another one than its `output_dir` holds.

`run_config.json` there says with what the run was started, and whether it came to its end. A value that differs now is
listed: it is applied, or refused where the checkpoint's own would stay in force without a word.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cambrian_gaze.files import write_json
from cambrian_gaze.models.folders.lineage import read_lineage
from cambrian_gaze.plugins import read_records
from cambrian_gaze.training.checkpoint.checkpoint import last_complete_checkpoint
from cambrian_gaze.training.checkpoint.model_folder import PARENTS, origin_of
from cambrian_gaze.training.checkpoint.states import TRAINER_STATE, StateError, read_json, whole
from cambrian_gaze.training.config.accepted import follows_a_metric, spelled
from cambrian_gaze.training.config.arguments import ARGUMENT_CLASSES
from cambrian_gaze.training.config.config import RunConfig
from cambrian_gaze.training.config.flags import boolean
from cambrian_gaze.training.config.lora_arguments import LoraArguments

NAME = "run_config.json"

PLACES = frozenset({"output_dir", "resume_from_checkpoint", "auto_resume", "verify_checkpoint", "plugin"})
"""Keys that say where a run lies and goes on, and not what it is; of plugins their content is compared."""

FIXED = frozenset(
    {
        *(field.name for field in dataclasses.fields(LoraArguments)),
        *("model_name_or_path", "preset", "model_overrides", "tokenizer_name_or_path", "vision_tower"),
        *("mm_projector_type", "pretrain_mm_mlp_adapter", "tune_mm_mlp_adapter", "unfreeze_mm_vision_tower"),
        *("tune_context_tokens", "freeze_backbone", "num_context_tokens", "stage", "data_path"),
        *("learning_rate", "mm_projector_lr", "mm_vision_tower_lr", "context_tokens_lr", "base_batch_size"),
        *("optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    }
)
"""Keys whose values lie in the checkpoint's weights and in its optimizer, and stay those of the run's beginning."""

MEASURES = frozenset({"metric_for_best_model", "greater_is_better", "eval_tasks_limit"})
"""Keys of the figure that a checkpoint names as the best one so far; under others it could not be compared."""

LENGTH = ("max_steps", "num_train_epochs")

HARMLESS = ("logging_", "log_", "eval_", "save_", "dataloader_", "ddp_", "hub_", "per_device_eval", "nproc_", "torch_")
"""Beginnings of keys that do not change what a finished run has learned."""
_HARMLESS = frozenset(
    {
        *("disable_tqdm", "report_to", "run_name", "hang_timeout", "sample_steps", "probe_steps", "gaze_stats_steps"),
        *(
            "peak_tflops",
            "quarantine_log",
            "use_cpu",
            "local_rank",
            "do_train",
            "version",
            "video_timeout",
            "deepspeed",
            "mm_vision_select_layer",
        ),
    }
)

_PATHS = frozenset({*PARENTS, "data_path", "image_folder", "video_folder", "tokenizer_name_or_path", "deepspeed"})


@dataclasses.dataclass(frozen=True)
class Difference:
    """A value that is another one than when the run began."""

    key: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.then)} then, {_shown(self.now)} now"


def finished_text(run: RunConfig) -> str | None:
    """What to say where the run in `output_dir` is finished and nothing is left to train, or None.

    Raises: ValueError where it is finished and was another run than this one.
    """
    args, folder = run.training, Path(run.training.output_dir)
    named = args.resume_from_checkpoint not in (None, "True", "true", "False", "false")
    if named or not (args.auto_resume or args.resume_from_checkpoint in ("True", "true")):
        return None
    before = read_run_config(folder)
    step = _finished_step(folder, before)
    if step is None:
        return None
    said = f"{folder}: finished; nothing was trained (its {step} steps are done)"
    found = [one for one in differences(before.get("values", {}), run, folder) if not _is_harmless(one.key)]
    found += plugin_differences(before, run)
    if not found:
        return said
    if all(one.key in LENGTH for one in found) and _is_longer(run, found, step):
        return None
    raise ValueError(
        f"{said}, and this run would be another one. Different are {'; '.join(map(str, found))}. Choose another "
        "output_dir, or move the finished run away; --auto_resume false begins anew in its place where it holds no "
        f"checkpoints. To train on from its result: --model_name_or_path {folder}"
    )


def check_continues(run: RunConfig, checkpoint: Path) -> list[str]:
    """The differences from the run that wrote `checkpoint` which are applied.

    Raises: ValueError where others would have no effect.
    """
    folder = checkpoint.parent
    before = read_run_config(folder)
    found = differences(before.get("values", {}), run, checkpoint)
    own = plugin_differences(before, run)
    if missing := [one for one in own if one.now is None]:
        raise ValueError(
            f"{checkpoint} was trained with {', '.join(str(one.then) for one in missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not given now; name the same "
            f"{'file' if len(missing) == 1 else 'files'} again: a flag, or `plugin` in the YAML file"
        )
    fixed = FIXED | MEASURES if follows_a_metric(run.training) and _has_best(checkpoint) else FIXED
    if refused := [one for one in found if one.key in fixed]:
        raise ValueError(
            f"{checkpoint} was trained with other values, which it keeps: {'; '.join(map(str, refused))}. To go on, "
            "give those of then; or begin another run: choose another output_dir (or this one by --auto_resume false, "
            f"once its checkpoints are moved away), from these weights by --model_name_or_path {checkpoint}"
        )
    return [str(one) for one in [*found, *own]]


def plugin_differences(before: Mapping[str, Any], run: RunConfig) -> list[Difference]:
    """Plugins that a run's record names and that are not given now, that have another content, or that are new. The
    same content under another name or in another folder is the same plugin."""
    then = read_records(before.get("plugins"))
    left = [one for one in then if one.sha256 not in {now.sha256 for now in run.plugins}]
    found = []
    for now in run.plugins:
        if now.sha256 not in {one.sha256 for one in then}:
            earlier = next((one for one in left if one.file == now.file), None)
            left = [one for one in left if one is not earlier]
            found.append(Difference("plugin", earlier, now))
    return [*found, *(Difference("plugin", one, None) for one in left)]


def differences(before: Mapping[str, Any], run: RunConfig, checkpoint: Path) -> list[Difference]:
    """Keys of a run whose values, given or by default, are not those of `before`; nothing where that is empty."""
    if not before:
        return []
    defaults = _defaults()
    keys = sorted(({*before, *run.values} & defaults.keys()) - PLACES)
    found = []
    for key in keys:
        then, now = (values.get(key, defaults[key]) for values in (before, run.values))
        is_flag = isinstance(defaults[key], bool)
        if _compared(key, then, is_flag) != _compared(key, now, is_flag) and not _is_same_content(key, run, checkpoint):
            found.append(Difference(key, then, now))
    return found


def read_run_config(folder: Path) -> dict[str, Any]:
    """What `write_run_config` wrote there; empty where there is none that can be read."""
    try:
        content = read_json(folder / NAME)
    except StateError:
        return {}
    ok = isinstance(content, dict) and isinstance(content.get("values"), dict)
    return content if ok else {}


def write_run_config(run: RunConfig, finished_step: int | None = None) -> None:
    """Write what the run was started with, and once it is over the step at which it ended."""
    finished = None if finished_step is None else {"step": finished_step, "time": time.time()}
    content = {"values": run.values, "sources": run.sources, "finished": finished}
    if run.plugins:
        content["plugins"] = [plugin.to_dict() for plugin in run.plugins]
    write_json(Path(run.training.output_dir) / NAME, content)


def _has_best(checkpoint: Path) -> bool:
    return read_json(checkpoint / TRAINER_STATE).get("best_metric") is not None


def _finished_step(folder: Path, before: Mapping[str, Any]) -> int | None:
    if "finished" in before:
        said = before["finished"]
        return said["step"] if isinstance(said, dict) and whole(said.get("step")) else None
    if not before or not any(folder.glob("*.safetensors")):
        return None
    # Written by an earlier version, which did not say so.
    last, _ = last_complete_checkpoint(folder, states=True)
    state = {} if last is None else read_json(last / TRAINER_STATE)
    return state["global_step"] if state and state["global_step"] >= state["max_steps"] else None


def _is_longer(run: RunConfig, found: list[Difference], step: int) -> bool:
    """Whether a finished run is asked for more steps than it has, and has a checkpoint to take them from."""
    if last_complete_checkpoint(run.training.output_dir, states=True)[0] is None:
        return False
    if run.training.max_steps > 0:
        return run.training.max_steps > step
    epochs = next((one.then for one in found if one.key == "num_train_epochs"), run.training.num_train_epochs)
    was_steps = any(one.key == "max_steps" for one in found)
    return was_steps or run.training.num_train_epochs > float(epochs)


def _is_harmless(key: str) -> bool:
    return key in _HARMLESS or key.startswith(HARMLESS)


def _defaults() -> dict[str, Any]:
    found = {}
    for field in (field for cls in ARGUMENT_CLASSES for field in dataclasses.fields(cls) if field.init):
        found[field.name] = field.default
        if field.default is dataclasses.MISSING:
            found[field.name] = None if field.default_factory is dataclasses.MISSING else field.default_factory()
    return found


def _compared(key: str, value: Any, is_flag: bool) -> str:
    if is_flag:
        with contextlib.suppress(ValueError):
            value = boolean(value)
    if key not in _PATHS or value is None:
        return spelled(value)
    paths = value if isinstance(value, (list, tuple)) else [value]
    return "\n".join(os.path.abspath(str(path)) if os.path.exists(str(path)) else str(path) for path in paths)


def _is_same_content(key: str, run: RunConfig, checkpoint: Path) -> bool:
    """Whether a parent or the data only lie elsewhere than they did: the digests beside the checkpoint say so."""
    if key != "data_path" and key not in PARENTS:
        return False
    try:
        before = read_lineage(checkpoint)
    except ValueError:
        return False
    try:
        then, now = (_content(key, lineage) for lineage in (before, origin_of(run)))
    except (AttributeError, KeyError, TypeError, OSError, ValueError):
        return False  # A lineage of another kind, or a parent that is not there.
    return bool(then) and then == now


def _content(key: str, lineage: Mapping[str, Any]) -> Any:
    """Digests of what a key names."""
    if key == "data_path":
        return list(lineage["data"]["files"].values())
    [one] = [parent for parent in lineage["parents"] if parent["role"] == PARENTS[key]]
    return one.get("weights") or one["lineage"]["weights"]


def _shown(value: Any) -> str:
    text = "not given" if value is None else spelled(value) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
