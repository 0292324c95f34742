"""Which benchmarks a run answers while it trains, and when: its own keys, and what follows for the evaluation's."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from cambrian_gaze.training.config.accepted import follows_a_metric, schedules_by_metric

logger = logging.getLogger(__name__)

FIGURES = ("score", "low", "high")
"""What is logged of a benchmark, as `eval_NAME_score` and so on: its figure and the ends of its 95 % interval."""


@dataclass
class TaskArguments:
    """Scores while training: which benchmarks are answered, when, and how much of each."""

    eval_tasks: list[str] | None = None
    """Benchmarks and suites of `cambrian-gaze eval run` that are answered during training, such as `mme gqa`, by the
    protocol of the paper's tables. Logged as `eval_mme_score`, `eval_mme_low`, `eval_mme_high`; `metric_for_best_model:
    mme_score` follows one."""

    eval_tasks_steps: int | None = None
    """Every how many steps, a multiple of `eval_steps`. By default at every evaluation; and these, without
    `eval_strategy`, every `eval_steps`, else every `save_steps`."""

    eval_tasks_limit: int = 100
    """Scoring groups that are answered of each benchmark, always the same ones (of MME pictures, each with its two
    questions); 0: all."""

    eval_tasks_data_root: str | None = None
    """Folder with local copies of the benchmarks, in OWNER/NAME; by default the hub and its cache (not for videos)."""

    def __post_init__(self) -> None:
        if self.eval_tasks is not None:
            self.eval_tasks = [name.strip() for text in self.eval_tasks for name in text.split(",") if name.strip()]
        given = [name for name, value in (("eval_tasks_steps", self.eval_tasks_steps is not None),
                 ("eval_tasks_limit", self.eval_tasks_limit != type(self).eval_tasks_limit),
                 ("eval_tasks_data_root", self.eval_tasks_data_root is not None)) if value]  # fmt: skip
        if given and not self.eval_tasks:
            raise ValueError(f"{' and '.join(given)}: without effect, since eval_tasks names no benchmark")
        if self.eval_tasks_limit < 0 or (self.eval_tasks_steps is not None and self.eval_tasks_steps < 1):
            raise ValueError(
                "eval_tasks_limit must be 0 (all) or more scoring groups, eval_tasks_steps a number of steps from 1, "
                f"got {self.eval_tasks_limit} and {self.eval_tasks_steps}"
            )


def choose_times(values: dict[str, Any], sources: dict[str, str]) -> list[str]:
    """Fills in `eval_strategy` and `eval_steps` where something is to be evaluated and the configuration does not say
    when: data alone after every epoch or every `eval_steps`; benchmarks, and data beside them, every `eval_steps` or at
    the checkpoints.

    Returns: what contradicts itself, one line each.
    """
    tasks, data, strategy = (values.get(key) for key in ("eval_tasks", "eval_data_path", "eval_strategy"))
    never = str(strategy) in ("no", "False")
    if not tasks and not data:
        if strategy is None or never:
            return []
        return [f"{sources['eval_strategy']}: eval_strategy {strategy} needs eval_data_path or eval_tasks"]
    if never and tasks:
        return ["eval_tasks: eval_strategy is no, so nothing would be answered; leave one of the two out"]
    if never:
        logger.warning("eval_data_path is not evaluated: eval_strategy is no")
        return []
    cause = "eval_tasks" if tasks else "eval_data_path"
    saves_by_steps = str(values.get("save_strategy", "steps")) == "steps"
    if strategy is None:
        at_checkpoints = saves_by_steps and (not data or bool(tasks))
        by_steps = "eval_steps" in values or "eval_tasks_steps" in values or at_checkpoints
        strategy = values["eval_strategy"] = "steps" if by_steps else "epoch"
        sources["eval_strategy"] = f"{cause}, {sources[cause]}"
    if tasks and str(strategy) == "steps" and "eval_steps" not in values:
        # transformers would take `logging_steps`.
        every = values.get("eval_tasks_steps", values.get("save_steps", 500) if saves_by_steps else 500)
        values["eval_steps"], sources["eval_steps"] = every, f"{cause}, {sources[cause]}"
    return []


def contradictions(tasks: TaskArguments, training: Any) -> list[str]:
    """Why benchmarks cannot be answered at `eval_tasks_steps`, one line each.

    Args:
        training: the run's `TrainingArguments`.
    """
    every = tasks.eval_tasks_steps
    if every is None:
        return []
    if training.eval_strategy != "steps":
        return [f"eval_tasks_steps {every} needs eval_strategy steps, not {training.eval_strategy.value}"]
    losses = training.eval_steps
    if losses < 1 or every % losses:
        return [f"eval_tasks_steps {every} must be a multiple of eval_steps, a number of steps, now {losses:g}"]
    return []


def metric_problems(run: Any, names: tuple[str, ...]) -> list[str]:
    """Why a run cannot follow its `metric_for_best_model`, one line each.

    Args:
        run: its `RunConfig`.
        names: the benchmarks of `eval_tasks`, suites opened.
    """
    training, every = run.training, run.tasks.eval_tasks_steps
    metric = training.metric_for_best_model
    if not follows_a_metric(training) or metric is None:
        return []
    metric = metric.removeprefix("eval_")
    of_tasks = [f"{name}_{figure}" for name in names for figure in FIGURES]
    known = [*(["loss"] if run.data.eval_data_path else []), *of_tasks]
    if metric not in known:
        shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
        why = "" if "metric_for_best_model" in run.values else " (the default)"
        return [
            f"metric_for_best_model {metric}{why} is not measured here; measured are {shown or 'none'}: eval_data_path "
            "gives loss, eval_tasks [mme] mme_score"
        ]
    if every is None or metric == "loss":
        return []
    if schedules_by_metric(training) and every != training.eval_steps:
        return [
            f"lr_scheduler_type {training.lr_scheduler_type.value} needs {metric} at every evaluation: set eval_steps "
            f"to eval_tasks_steps, {every}, now {training.eval_steps:g}"
        ]
    if training.save_strategy == "steps" and (training.save_steps < 1 or training.save_steps % every):
        return [
            f"{metric} is measured every {every} steps (eval_tasks_steps) and can lead to a checkpoint only where one "
            f"is written: set save_steps, now {training.save_steps:g}, to a multiple of it"
        ]
    return []
