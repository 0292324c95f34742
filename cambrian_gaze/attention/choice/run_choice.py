"""What a training run has chosen among the attention backends: one for calls of the same options and dtype, on all of
its ranks, in its evaluation, and when it goes on from one of its checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from cambrian_gaze.attention.choice import kept

EVERY = 64
"""Calls after which ranks ask one another again, while none has had a picture."""

Ask = Callable[[Callable[[], str], bool, torch.device], str | None]
"""(decide, whether this rank can, device) → on all ranks what `decide` returns on one that can; None where none can."""


class RunChoice:
    """The chosen backends by the options of calls. Every rank makes the same calls, so that all count alike."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self._calls = 0

    def is_due(self) -> bool:
        """Counts a call for which nothing is chosen yet; whether the ranks ask one another in it: the 1st, 2nd, 4th, …,
        then each `EVERY`th. A run on text alone pays for one small collective in so many calls."""
        self._calls += 1
        return self._calls % EVERY == 0 or self._calls & (self._calls - 1) == 0

    def settle(self, options: str, name: str) -> None:
        """From now on calls of these options take `name`."""
        self.names[options] = name
        self._calls = 0

    def state(self, device: torch.device) -> dict[str, Any]:
        """For a checkpoint, in plain JSON types."""
        return {"device": kept.device_name(device), "versions": kept.versions(), "names": dict(self.names)}

    def usable(self, state: Any, device: torch.device) -> dict[str, str]:
        """The names in what `state` returned in an earlier process; none where device, versions or code differ, since
        what was right and fast there must be tried again here."""
        here = {**self.state(device), "names": None}
        if not isinstance(state, dict) or {**state, "names": None} != here or not isinstance(state["names"], dict):
            return {}
        return {str(options): str(name) for options, name in state["names"].items()}


_run: RunChoice | None = None
_ask: Ask | None = None


@contextlib.contextmanager
def in_run(run: RunChoice, ask: Ask | None = None) -> Iterator[None]:
    """Within, calls are a run's. With `ask` all ranks make the same ones, those of a training step, and can wait for
    one of them; without, a process among several chooses nothing."""
    global _run, _ask
    before, (_run, _ask) = (_run, _ask), (run, ask)
    try:
        yield
    finally:
        _run, _ask = before


def current() -> tuple[RunChoice | None, Ask | None]:
    """Whose call this is, and how its ranks ask one another."""
    return _run, _ask
