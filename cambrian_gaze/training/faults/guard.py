"""The guard of a run's steps: leaves out bad ones, and notices when the run hangs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cambrian_gaze.data.collator import Origin
from cambrian_gaze.data.quarantine import ExpectedMissing, TooManyQuarantined
from cambrian_gaze.training.faults.bad_steps import BadSteps, Verdict, ZeroGuard
from cambrian_gaze.training.faults.watchdog import Watchdog
from cambrian_gaze.training.metrics.meter import Meter

STACKS = "stacks"
"""Folder in `output_dir` with the stacks of ranks that hung."""

FEWEST_SEEN = 100
"""As long as fewer samples were seen, `max_quarantined_share` is of these, or of an epoch that has fewer."""


class StepGuard:
    """Keeps the losses of a step apart until its gradient norm has shown whether it is good."""

    def __init__(self, args: Any) -> None:
        """`args`: `TrainingArguments`."""
        rank = args.process_index
        self.bad_steps = BadSteps(args.output_dir, args.grad_spike_factor, args.max_bad_steps, rank)
        self.watchdog = Watchdog(Path(args.output_dir) / STACKS, args.hang_timeout, rank)
        self._writes = args.should_save
        self._zero: ZeroGuard | None = None
        self._samples: list[Origin] = []
        self._step_loss: Tensor | None = None
        self._loss_before: Tensor | None = None
        self._within_step = False
        self._steps = self._bad = 0

    def expect(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Remember what the next step's micro-batches are made of, for the log of bad steps."""
        self._samples = [sample for batch in batches for row in batch["samples"] for sample in row]

    def begin_micro_batch(self, model: nn.Module, run_loss: Tensor, is_zero: bool) -> None:
        """Before each micro-batch.

        Args:
            model: as it is trained; with `is_zero` a DeepSpeed engine.
            run_loss: the sum of the losses since the last log, a scalar.
        """
        if is_zero and self._zero is None:
            self._zero = ZeroGuard(model, self.bad_steps)
        if not self._within_step:
            self._within_step = True
            self._loss_before, self._step_loss = run_loss.clone(), torch.zeros_like(run_loss)

    def end_micro_batch(self, loss: Tensor) -> None:
        """After each micro-batch, with its loss."""
        self._step_loss += loss

    def judge(self, norm: Any) -> Verdict | None:
        """Whether the step is bad, by the norm of its gradients: asked once all of them are there, and before the
        optimizer (DeepSpeed has stepped already, under its own guard)."""
        self._within_step = False
        self._steps += 1
        return self.bad_steps.judge(float(norm)) if self._zero is None else self._zero.take_verdict()

    def leave_out(self, verdict: Verdict, step: int, model: nn.Module, scheduler: Any, run_loss: Tensor) -> None:
        """Take optimizer step `step` back: its gradients, its part of `run_loss`; log its samples.

        Raises: TooManyBadSteps.
        """
        if self._zero is None:
            model.zero_grad(set_to_none=True)  # Without a gradient the optimizer passes a parameter over.
        else:
            (model.lr_scheduler or scheduler).step()  # Nobody else does after a skipped ZeRO step.
        run_loss.copy_(self._loss_before)
        self._bad += 1
        self.bad_steps.add(step, verdict, self._samples, float(self._step_loss))

    def report(self, logs: dict[str, float]) -> None:
        """Make `loss` that of the window's good steps (NaN where there is none). Begins another window."""
        steps, bad, self._steps, self._bad = self._steps, self._bad, 0, 0
        if bad:
            logs["loss"] *= steps / (steps - bad) if steps > bad else float("nan")

    def load(self, checkpoint: str) -> None:
        """Judge as the run before did."""
        self.bad_steps.load(checkpoint)

    def save(self, checkpoint: Path) -> None:
        """Write what `load` reads."""
        if self._writes:
            self.bad_steps.save(checkpoint)


class QuarantineLimit:
    """Ends a run in which too many samples could not be used."""

    def __init__(self, share: float, expected: ExpectedMissing, log: Path | None) -> None:
        """Args:
        share: largest share of the samples seen; over-long samples do not count.
        expected: samples without their media that do not count either.
        log: names the samples.
        """
        self.share, self.expected, self.log = share, expected, log

    def check(self, meter: Meter, rows: int, ended: bool = False) -> None:
        """Raises: TooManyQuarantined by the counts of the last report; an epoch has so many `rows`. `ended`: the run
        has, and only asks whether anything was trained."""
        seen = meter.seen
        # At the start of a run one sample is a large share of few.
        met = max(seen, min(FEWEST_SEEN, rows))
        undeclared = self.expected.beyond(meter.declared, met)
        quarantined = meter.damaged + undeclared
        if seen and not ended and quarantined > self.share * met:
            raise TooManyQuarantined(
                f"{quarantined} of {seen} samples ({quarantined / seen:.1%}) could not be used, more than "
                f"max_quarantined_share={self.share:.1%}"
                + (f"; {undeclared} of them miss media beyond what the recipe declares. " if undeclared else ". ")
                + (f"{self.log} says why for each; " if self.log else "")
                + "correct the data, or raise the limit"
            )
        if seen and not meter.used and (ended or seen >= min(FEWEST_SEEN, rows)):
            raise TooManyQuarantined(
                f"none of the {seen} samples seen could be used, and nothing was trained. "
                + (f"{self.log} says why for each; " if self.log else "")
                + "raise max_length or choose another overlong where they are too long, else correct the data"
            )
