"""Steps that are left out: a loss or gradient that is not finite, or a gradient norm far above what is usual.

All ranks decide by the norm of the reduced gradients, which is the same on each: nothing is asked of the others. A
loss that is not finite makes the norm so (`propagate_nonfinite`). A bad step changes neither weights nor the
optimizer's state; it counts as a step, so that learning rate and K stay functions of the step's number.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cambrian_gaze.data.collator import Origin
from cambrian_gaze.data.quarantine import append_lines
from cambrian_gaze.files import write_json

logger = logging.getLogger(__name__)

LOG_NAME = "bad_steps.jsonl"
STATE_NAME = "grad_norms.json"
WINDOW = 1000
"""Steps within which `max_bad_steps` are counted."""
USUAL = 128
"""Good steps whose median norm is the usual one."""
FEWEST = 16
"""Good steps that it takes to call a norm unusual."""


class TooManyBadSteps(RuntimeError):
    """More bad steps than `max_bad_steps` in the last `WINDOW`."""


def propagate_nonfinite(loss: Tensor) -> Tensor:
    """`loss`, exactly; where it is not finite so is every gradient (that of infinity alone may be finite). Does not
    wait for the device."""
    same = loss.detach() - loss.detach()  # 0, or NaN
    return loss * (1 + same)


@dataclass(frozen=True)
class Verdict:
    """What makes a step bad."""

    norm: float
    usual: float | None = None
    """Median norm of the good steps before, where the norm is too far above it."""

    @property
    def reason(self) -> str:
        """For the log."""
        if self.usual is None:
            return f"the loss or the gradient norm ({self.norm:g}) is not finite"
        return f"the gradient norm {self.norm:.4g} is {self.norm / self.usual:.1f} times the usual {self.usual:.4g}"


class BadSteps:
    """Judges steps by their gradient norm, and counts and logs the bad ones."""

    def __init__(self, folder: Path | str, factor: float, limit: int, rank: int = 0) -> None:
        """Args:
        folder: gets `bad_steps.jsonl`.
        factor: a norm above this many times the usual one is bad; 0: any finite norm is good.
        limit: most bad steps among the last `WINDOW`.
        """
        self.path, self.factor, self.limit, self.rank = Path(folder) / LOG_NAME, factor, limit, rank
        self.norms: deque[float] = deque(maxlen=USUAL)
        self.steps: list[int] = []
        """Numbers of the bad steps, from 1."""

    def judge(self, norm: float) -> Verdict | None:
        """Whether a step with this norm, of the gradients over all ranks and before clipping, must be left out."""
        if not (math.isfinite(norm) and norm >= 0):
            return Verdict(norm)
        if self.factor and len(self.norms) >= FEWEST:
            usual = statistics.median(self.norms)
            if norm > self.factor * usual > 0:
                return Verdict(norm, usual)
        self.norms.append(norm)
        return None

    def add(self, step: int, verdict: Verdict, samples: Iterable[Origin], loss: float) -> None:
        """Log this rank's samples of a bad step, a line each in the form of a quarantine log: `exclude` takes it.

        Raises: TooManyBadSteps.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        facts = {"reason": verdict.reason, "loss": loss, "grad_norm": verdict.norm}
        facts |= {"time": now, "rank": self.rank, "step": step}
        lines = [json.dumps({**vars(sample), **facts}) + "\n" for sample in samples]
        append_lines(self.path, "".join(lines), sync=True)
        self.steps.append(step)
        recent = sum(number > step - WINDOW for number in self.steps)
        if recent > self.limit:
            raise TooManyBadSteps(
                f"step {step} is bad ({verdict.reason}) and {recent} of the last {WINDOW} steps were, more than "
                f"max_bad_steps={self.limit}. {self.path} names their samples; look at them, lower the learning rate, "
                "or raise the limit"
            )

    def save(self, folder: Path | str) -> None:
        """Write what a resumed run needs in order to judge alike."""
        write_json(Path(folder) / STATE_NAME, {"norms": list(self.norms), "steps": self.steps})

    def load(self, folder: Path | str) -> None:
        """Go on as the run that wrote `folder`; one without the file starts anew."""
        path = Path(folder) / STATE_NAME
        state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"norms": [], "steps": []}
        self.norms, self.steps = deque(state["norms"], maxlen=USUAL), state["steps"]


class ZeroGuard:
    """Makes DeepSpeed's ZeRO leave out a bad step, as it does on an overflow: gradients are dropped before they reach
    the optimizer. DeepSpeed reduces, clips and steps within one call, so this judges inside it, of ZeRO-1 and ZeRO-2.
    Its other optimizers are left to their own check, which knows no spikes."""

    def __init__(self, engine: nn.Module, bad_steps: BadSteps) -> None:
        self.engine, self.bad_steps = engine, bad_steps
        self.verdict: Verdict | None = None
        self._norm_of = getattr(engine.optimizer, "scaled_global_norm", None)
        if self._norm_of is not None:
            engine.optimizer.scaled_global_norm = self._judged_norm
        elif bad_steps.factor:
            name = type(engine.optimizer).__name__
            logger.warning("with DeepSpeed's %s grad_spike_factor has no effect; ZeRO-1 and ZeRO-2 follow it", name)

    def _judged_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = self._norm_of(*args, **kwargs)
        self.verdict = self.bad_steps.judge(float(norm) / self.engine.optimizer.loss_scale)
        return norm if self.verdict is None else torch.full_like(torch.as_tensor(norm), -1.0)

    def take_verdict(self) -> Verdict | None:
        """Of the step that DeepSpeed has just taken or left out.

        Raises: RuntimeError where a bad step was taken all the same.
        """
        verdict, self.verdict = self.verdict, None
        if getattr(self.engine.optimizer, "overflow", False):
            return verdict or Verdict(math.inf)
        norm = self.engine.get_global_grad_norm()
        if verdict is None and norm is not None and not math.isfinite(float(norm)):
            verdict = Verdict(float(norm))
        if verdict is not None:
            raise RuntimeError(
                f"DeepSpeed took a step although {verdict.reason}, so the weights are spoilt; set bf16's "
                "check_grad_overflow to true in its configuration, and resume from the last checkpoint"
            )
        return None
