"""This process among those that share a run: its number, its device, its progress bar."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

LONGEST_RUN = timedelta(days=30)
"""How long a process waits for the others at the end: shares differ in length."""


@dataclass(frozen=True)
class Ranks:
    """Rank 0 of 1, unless `from_launcher` says otherwise."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @classmethod
    def from_launcher(cls, device: str | None = None) -> Ranks:
        """The process that torchrun or `accelerate launch` started, joined with the others; alone without one.

        Args:
            device: default: cuda where there is one, each process its own.
        """
        import torch

        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=LONGEST_RUN)
        return cls(state.process_index, state.num_processes, device or str(state.device))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def merged(self, errors: dict[str, str]) -> dict[str, str]:
        """The errors of all processes by task; of several about one task, the first process's."""
        merged: dict[str, str] = {}
        for one in self.gathered(errors):
            merged = one | merged
        return merged

    def gathered(self, one: Any) -> list[Any]:
        """What each process has, in their order, on all of them. A collective."""
        if self.world == 1:
            return [one]
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, one)
        return found

    def bar(self, items: Iterable[Any], what: str) -> Any:
        """The items, with a progress bar in the first process."""
        from tqdm import tqdm

        return tqdm(items, desc=what, disable=not self.first)

    def progress(self, total: int, what: str) -> Any:
        """A progress bar over this process's share, shown in the first process."""
        from tqdm import tqdm

        return tqdm(total=total, desc=what, unit="answer", disable=not self.first)

    def leave(self) -> None:
        """Part from the other processes."""
        if self.world > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()
