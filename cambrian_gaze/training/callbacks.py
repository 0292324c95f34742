"""Callbacks of a run: the log file, and logging where checkpoints are written."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as HfTrainingArguments
from transformers.trainer_callback import ProgressCallback

from cambrian_gaze.training.metrics.log import TrainLog
from cambrian_gaze.training.metrics.meter import Meter


class ProgressLine(ProgressCallback):
    """A progress bar, and at each logging step one line of what matters most; the rest is in `train_log.jsonl`."""

    def on_log(
        self,
        args: HfTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the line above the bar."""
        if state.is_world_process_zero and self.training_bar is not None and logs:
            self.training_bar.write(summary_line(state.global_step, logs))


def summary_line(step: int, logs: dict[str, Any]) -> str:
    """`step 50  loss 2.31  lr 0.002  K 2.0  KV 0.19  1,234 visual tok/s …` of a training step, or all of other logs."""
    if "loss" not in logs:
        return "  ".join(f"{key} {value:.4g}" for key, value in logs.items() if isinstance(value, int | float))
    parts = [f"step {step}", f"loss {logs['loss']:.4f}", f"grad {logs.get('grad_norm') or 0.0:.2f}"]
    parts.append(f"lr {logs['learning_rate']:.3g}")
    if "k" in logs:
        parts += [f"K {logs['k']:.1f}", f"KV {logs['attended_kv_share']:.3f}"]
    parts.append(f"{logs['visual_tokens_per_s']:,.0f} + {logs['text_tokens_per_s']:,.0f} visual + text tok/s")
    if "mfu" in logs:
        parts.append(f"MFU {logs['mfu']:.1%}")
    if logs["quarantined"]:
        parts.append(f"quarantined {logs['quarantined']:.0f}")
    return "  ".join(parts)


class MeterStart(TrainerCallback):
    """Starts the meter with the training, so that loading and compiling do not count as a step."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_train_begin(
        self, args: HfTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the first window."""
        self.meter.start()


class LogAtCheckpoints(TrainerCallback):
    """Logs wherever a checkpoint is written, so that no logging window is cut by a resume."""

    def on_step_end(
        self, args: HfTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for a log line before the checkpoint."""
        if control.should_save:
            control.should_log = True
        return control


class LogFile(TrainerCallback):
    """Writes `train_log.jsonl` on the first rank."""

    def __init__(self, log: TrainLog, **facts: Any) -> None:
        """`facts` go into the line that starts an attempt."""
        self.log, self.facts = log, facts

    def on_train_begin(
        self, args: HfTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start an attempt; a resumed one supersedes what lies beyond its checkpoint."""
        if state.is_world_process_zero:
            self.log.start(state.global_step, max_steps=state.max_steps, world_size=args.world_size, **self.facts)

    def on_log(
        self,
        args: HfTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append the values of a logging step, an evaluation or the end of the run; what is evaluated outside of a run
        is its caller's."""
        if state.is_world_process_zero and logs and self.log.is_open:
            event = "log" if "loss" in logs else "eval" if any(k.startswith("eval_") for k in logs) else "end"
            self.log.write(event, {"step": state.global_step, **logs})

    def on_train_end(
        self, args: HfTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the file."""
        self.log.close()
