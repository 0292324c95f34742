"""How the plan of an epoch is dealt out to steps, micro-batches and ranks, from any position on.

The position counts packs of the epoch's plan (`data/mixture/plan.py`), and nothing before it is touched. A step takes
the packs that follow it, in whatever shares batch size, accumulation and ranks ask for, so that a run goes on exactly
with other shares too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from cambrian_gaze.data.mixture.plan import Draw, EpochOrder, PlannedDataset
from cambrian_gaze.training.launch.requests import outlive_requests


@dataclass(frozen=True)
class Split:
    """How many packs a step takes, and in which shares."""

    batch_size: int
    """Packs of a rank's micro-batch."""
    accumulation: int = 1
    """Micro-batches of a step."""
    world_size: int = 1
    drop_last: bool = False
    """Leave out the packs at the end of an epoch that do not fill a micro-batch on every rank."""

    @property
    def micro_batch(self) -> int:
        """Packs of a micro-batch over all ranks."""
        return self.batch_size * self.world_size

    @property
    def global_batch(self) -> int:
        """Packs of a step."""
        return self.micro_batch * self.accumulation

    def micro_steps(self, packs: int) -> int:
        """Micro-batches that `packs` packs make."""
        return packs // self.micro_batch if self.drop_last else -(-packs // self.micro_batch)

    def steps(self, packs: int) -> int:
        """Steps that `packs` packs make; the last one may have fewer micro-batches."""
        return -(-self.micro_steps(packs) // self.accumulation)


class OrderedBatches(Sampler[list[Draw]]):
    """Micro-batches of draws for one rank, from a position of an epoch on.

    A last micro-batch that is short is shared out evenly, and a rank that is left without any pack gets an empty batch,
    so that all ranks make the same number of steps. Nothing is repeated. Unpacked, ranks take neighbouring slices.
    Packs of a step are dealt out by what they cost, so that ranks wait little for each other: micro-batches get packs
    of like cost, and within one each goes to the rank that has the least so far.
    """

    def __init__(
        self,
        order: EpochOrder,
        split: Split,
        *,
        rank: int = 0,
        cost: Callable[[np.ndarray], float] | None = None,
    ) -> None:
        """`cost` of the rows of a pack, in any unit; by default the sum of their lengths squared."""
        self.order, self.split, self.rank = order, split, rank
        self.cost = cost or self._squares
        self.begin(0)
        if not len(self):
            raise ValueError(
                f"{order.num_packs(0)} samples or packs do not fill one batch of {split.world_size} × "
                f"{split.batch_size} and dataloader_drop_last is on; use smaller batches"
            )

    def begin(self, epoch: int, position: int = 0, step: int = 1, end: int | None = None) -> None:
        """Choose where the next iteration begins and ends, by default with the epoch; `step` is the number of its first
        optimizer step."""
        self.epoch, self.position, self.step = epoch, position, step
        self.end = self.order.num_packs(epoch) if end is None else end

    def __len__(self) -> int:
        return self.split.micro_steps(self.end - self.position)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, split = self.epoch, self.split
        end = min(self.end, self.position + len(self) * split.micro_batch)
        for number, start in enumerate(range(self.position, end, split.global_batch)):
            for mine in self._deal(range(start, min(start + split.global_batch, end))):
                yield [self.order.draw(epoch, pack, self.step + number) for pack in mine]

    def _deal(self, packs: Sequence[int]) -> Iterator[Sequence[int]]:
        """This rank's share of each micro-batch of a step."""
        costs: dict[int, float] = {}
        if self.order.packed:
            plan = self.order.plan(self.epoch)
            costs = {pack: self.cost(plan[pack]) for pack in packs}
            packs = sorted(packs, key=lambda pack: (-costs[pack], pack))
        for start in range(0, len(packs), self.split.micro_batch):
            chunk = packs[start : start + self.split.micro_batch]
            share, more = divmod(len(chunk), self.split.world_size)
            quotas = [share + (rank < more) for rank in range(self.split.world_size)]
            if self.order.packed:
                yield deal_evenly(chunk, [costs[pack] for pack in chunk], quotas)[self.rank]
            else:
                first = sum(quotas[: self.rank])
                yield chunk[first : first + quotas[self.rank]]

    def _squares(self, rows: np.ndarray) -> float:
        return float((self.order.lengths[rows].astype(np.float64) ** 2).sum())


def deal_evenly(packs: Sequence[int], costs: Sequence[float], quotas: Sequence[int]) -> list[list[int]]:
    """Packs by falling cost → `quotas[rank]` of them for each rank; each goes to the one that has the least so far."""
    dealt: list[list[int]] = [[] for _ in quotas]
    loads = [0.0] * len(quotas)
    for pack, cost in zip(packs, costs, strict=True):
        rank = min((r for r in range(len(quotas)) if len(dealt[r]) < quotas[r]), key=lambda r: (loads[r], r))
        dealt[rank].append(pack)
        loads[rank] += cost
    return dealt


def train_loader(
    dataset: PlannedDataset, collate: Callable[[list[Any]], dict[str, Any]], batches: OrderedBatches, args: Any
) -> DataLoader:
    """The training loader under the `dataloader_*` fields of `TrainingArguments`. It draws nothing from the global
    generators."""
    workers = args.dataloader_num_workers
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        persistent_workers=args.dataloader_persistent_workers and workers > 0,
        prefetch_factor=args.dataloader_prefetch_factor if workers > 0 else None,
        multiprocessing_context=args.dataloader_multiprocessing_context if workers > 0 else None,
        generator=torch.Generator().manual_seed(batches.order.seed),
        worker_init_fn=outlive_requests,
    )
