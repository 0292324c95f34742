"""Which samples a step sees: a function of (seed, epoch, step, rank) alone, so a resumed run reads on exactly.

Ranks take neighbouring slices of one order; with the same global batch size a step sees the same samples on any number
of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler


class OrderedBatches(Sampler[list[int]]):
    """Batches of sample numbers for one rank.

    The last batch of an epoch may be short; it is then shared out evenly, and a rank that is left without any sample
    gets an empty batch, so that all ranks make the same number of steps. Nothing is repeated.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        if num_samples < 1:
            raise ValueError("the training data holds no sample")
        self.num_samples, self.batch_size = num_samples, batch_size
        self.rank, self.world_size = rank, world_size
        self.seed, self.shuffle, self.drop_last = seed, shuffle, drop_last
        self.epoch = 0
        if len(self) == 0:
            raise ValueError(
                f"{num_samples} samples do not fill one batch of {world_size} × {batch_size} and "
                "dataloader_drop_last is on; use smaller batches"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def order(self) -> list[int]:
        """All sample numbers in the order of the current epoch."""
        if not self.shuffle:
            return list(range(self.num_samples))
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        return torch.randperm(self.num_samples, generator=generator).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        order, step = self.order(), self.batch_size * self.world_size
        for start in range(0, len(self) * step, step):
            chunk = order[start : start + step]
            share, more = divmod(len(chunk), self.world_size)
            first = self.rank * share + min(self.rank, more)
            yield chunk[first : first + share + (self.rank < more)]

    def __len__(self) -> int:
        step = self.batch_size * self.world_size
        return self.num_samples // step if self.drop_last else -(-self.num_samples // step)


class EpochLoader(DataLoader):
    """A DataLoader over `OrderedBatches` that tells it the epoch. It draws nothing from the global generators."""

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer at the start of each epoch."""
        self.batch_sampler.set_epoch(epoch)


def train_loader(
    dataset: Dataset, collate: Callable[[list[Any]], dict[str, Any]], batches: OrderedBatches, args: Any
) -> EpochLoader:
    """The training loader under the `dataloader_*` fields of `TrainingArguments`."""
    workers = args.dataloader_num_workers
    return EpochLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        persistent_workers=args.dataloader_persistent_workers and workers > 0,
        prefetch_factor=args.dataloader_prefetch_factor if workers > 0 else None,
        multiprocessing_context=args.dataloader_multiprocessing_context if workers > 0 else None,
        generator=torch.Generator().manual_seed(batches.seed),
    )
