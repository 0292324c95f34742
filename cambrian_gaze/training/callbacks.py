"""Callbacks of a run: each tells one part what transformers' Trainer does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as HfTrainingArguments
from transformers.trainer_callback import ProgressCallback

from cambrian_gaze.training.config.arguments import TrainingArguments
from cambrian_gaze.training.faults.watchdog import Watchdog
from cambrian_gaze.training.launch.requests import StopRequest
from cambrian_gaze.training.metrics.log import LOG_NAME, TrainLog
from cambrian_gaze.training.metrics.meter import Meter
from cambrian_gaze.training.order.order import DataOrder
from cambrian_gaze.training.parts import RunParts


def run_callbacks(parts: RunParts, request: StopRequest, args: TrainingArguments) -> Iterator[TrainerCallback]:
    """Those of every run, in their order: the exact epoch comes before the log, the log before the checkpoint."""
    yield ExactEpoch(parts.data)
    yield StopOnRequest(request)
    yield Heartbeat(parts.guard.watchdog)
    if not args.disable_tqdm:
        yield ProgressLine()
    yield MeterStart(parts.meter)
    yield LogAtCheckpoints()
    yield LogFile(TrainLog(Path(args.output_dir) / LOG_NAME), stage=args.stage)


class ExactEpoch(TrainerCallback):
    """Trainer counts an epoch's share from where the run was resumed; this sets what was consumed of its plan."""

    def __init__(self, data: DataOrder) -> None:
        self.data = data

    def on_step_end(
        self, args: HfTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Correct `state.epoch`, before it is logged and saved."""
        state.epoch = self.data.schedule.progress(state.global_step)


class StopOnRequest(TrainerCallback):
    """Saves and stops after the step in which a rank was asked to."""

    def __init__(self, request: StopRequest) -> None:
        self.request = request

    def on_train_begin(
        self, args: HfTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From now on there is something to save."""
        self.request.can_save = True

    def on_step_end(
        self, args: HfTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """The last step is no stop: the run ends by itself."""
        if state.global_step < state.max_steps and self.request.agree(args.device):
            self.request.granted = self.request.status
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        return control


class Heartbeat(TrainerCallback):
    """Beats at every micro-batch."""

    def __init__(self, watchdog: Watchdog) -> None:
        self.watchdog = watchdog

    def on_train_begin(
        self, args: HfTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The loader's workers start, and kernels are compiled."""
        self.watchdog.beat("the first step", slow=True)

    def on_substep_end(
        self, args: HfTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A micro-batch is done, the step is not."""
        self.watchdog.beat(f"a micro-batch of step {state.global_step + 1}")

    def on_step_end(
        self, args: HfTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A step is done."""
        self.watchdog.beat(f"step {state.global_step + 1}")

    def on_prediction_step(
        self, args: HfTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A batch of the evaluation is done."""
        self.watchdog.beat("a batch of the evaluation")


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
