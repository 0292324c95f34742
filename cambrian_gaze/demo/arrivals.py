"""Tokens as they come out of `generate`: which, when, and how to end it."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteria

Stop = threading.Event
"""Set: the answer ends at the next token."""


@dataclass(frozen=True)
class Times:
    """Seconds, as measured in one answer."""

    first: float
    """Until the first token: reading the prompt and the pictures' way through the tower included."""

    steps: list[float] = field(default_factory=list)
    """Between each token and the next."""

    @property
    def per_token(self) -> float | None:
        """The median step."""
        return float(np.median(self.steps)) if self.steps else None


class Halt(StoppingCriteria):
    """Ends generation at the next token: once one of `stops` is set, and after so many seconds."""

    def __init__(self, seconds: float, *stops: Stop) -> None:
        self._stops, self._end = stops, time.monotonic() + seconds

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        stop = any(one.is_set() for one in self._stops) or time.monotonic() > self._end
        return torch.full((len(input_ids),), stop, dtype=torch.bool, device=input_ids.device)


class Arrivals:
    """A streamer that notes each new token and when it came."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.moments: list[float] = []
        self.news: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._prompt = True
        self.began = time.perf_counter()

    def put(self, value: Tensor) -> None:
        """Tokens, the prompt's first."""
        if self._prompt:
            self._prompt = False
            return
        self.ids += value.reshape(-1).tolist()
        self.moments.append(time.perf_counter())
        self.news.put(True)

    def end(self) -> None:
        """The last token has come."""

    def wait(self) -> bool:
        """Until something new came, of several tokens the last; False once there will be no more."""
        going = self.news.get()
        while going and not self.news.empty():
            going = self.news.get()
        return going

    def times(self) -> Times:
        """What was measured so far."""
        moments = list(self.moments)
        first = moments[0] - self.began if moments else 0.0
        return Times(first, [b - a for a, b in zip(moments, moments[1:], strict=False)])
