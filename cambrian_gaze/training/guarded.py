"""`GuardedTrainer`: a trainer that leaves out bad steps, notices when it hangs, and stops when it is asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cambrian_gaze.attention.sequence import SequenceGroup
from cambrian_gaze.data.collator import Origin
from cambrian_gaze.training.faults.bad_steps import BadSteps, Verdict, ZeroGuard
from cambrian_gaze.training.faults.watchdog import Heartbeat, Watchdog
from cambrian_gaze.training.launch.requests import StopOnRequest, StopRequest
from cambrian_gaze.training.metrics.loss_split import LossSplit, source_names
from cambrian_gaze.training.ordered import OrderedTrainer

STACKS = "stacks"
"""Folder in `output_dir` with the stacks of ranks that hung."""


class GuardedTrainer(OrderedTrainer):
    """Its `compute_loss` must `taint` the loss, and add token losses to `loss_split`."""

    sequence_group: SequenceGroup | None = None
    """The ranks that share this one's tokens, if any."""

    def __init__(self, *args: Any, request: StopRequest | None = None, **kwargs: Any) -> None:
        """`request`: says when to stop."""
        super().__init__(*args, **kwargs)
        run, rank = self.args, self.args.process_index
        self.request = request or StopRequest()
        self.bad_steps = BadSteps(run.output_dir, run.grad_spike_factor, run.max_bad_steps, rank)
        self.watchdog = Watchdog(Path(run.output_dir) / STACKS, run.hang_timeout, rank)
        self.loss_split = LossSplit(source_names(self.train_dataset), run.device)
        self._zero: ZeroGuard | None = None
        self._step_samples: list[Origin] = []
        self._step_loss: Tensor | None = None
        self._loss_before: Tensor | None = None
        self._steps_logged = self._bad_logged = 0
        self.add_callback(StopOnRequest(self.request))
        self.add_callback(Heartbeat(self.watchdog))

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """As `OrderedTrainer`'s, watched; a resumed run judges steps as the one before."""
        if resume_from_checkpoint:
            self.bad_steps.load(resume_from_checkpoint)
        with self.watchdog.watching():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def take_samples(self, batches: list[dict[str, Any]]) -> None:
        """Remember what the next step's micro-batches are made of, for the log of bad steps; `loss_groups` takes the
        place of the batches' `samples`, see `LossSplit.groups`."""
        self._step_samples = [sample for batch in batches for row in batch["samples"] for sample in row]
        for batch in batches:
            batch["loss_groups"] = self.loss_split.groups(batch, self.sequence_group)
            del batch["samples"]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """As Trainer's; the losses of a step are kept apart until it is known to be good."""
        if self.is_deepspeed_enabled and self._zero is None:
            self._zero = ZeroGuard(model, self.bad_steps)
        if self._loss_before is None:
            self._loss_before, self._step_loss = self._tr_loss.clone(), torch.zeros_like(self._tr_loss)
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._step_loss += loss
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """As Trainer's: comes after all gradients are there and before the optimizer. Drops those of a bad step."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        verdict = self.bad_steps.judge(float(norm)) if self._zero is None else self._zero.take_verdict()
        self._steps_logged += 1
        self.loss_split.end_step(good=verdict is None)
        if verdict is not None:
            if self._zero is None:
                model.zero_grad(set_to_none=True)  # Without a gradient the optimizer passes a parameter over.
            else:
                (model.lr_scheduler or self.lr_scheduler).step()  # Nobody else does after a skipped ZeRO step.
            self._leave_out(verdict)
        self._loss_before = None
        return norm

    def _leave_out(self, verdict: Verdict) -> None:
        self._tr_loss.copy_(self._loss_before)
        self._bad_logged += 1
        self.bad_steps.add(self.state.global_step + 1, verdict, self._step_samples, float(self._step_loss))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Loss of the window's good steps (NaN where there is none), and how many steps were bad so far."""
        if "loss" in logs:
            steps, bad, self._steps_logged, self._bad_logged = self._steps_logged, self._bad_logged, 0, 0
            if bad:
                logs["loss"] *= steps / (steps - bad) if steps > bad else float("nan")
            logs.update(self.loss_split.report())
            logs["bad_steps"] = float(len(self.bad_steps.steps))
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As Trainer's, under a limit of its own per batch."""
        with self.watchdog.slowly("the evaluation"):
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            self.bad_steps.save(Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}")
