"""How the plan of an epoch is dealt out to steps, micro-batches and ranks, from any position on.

The position counts packs of the epoch's plan (`data/mixture/plan.py`), and nothing before it is touched. A step takes
the packs that follow it, in whatever shares batch size, accumulation and ranks ask for, so that a run goes on exactly
with other shares too.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cambrian_gaze.data.mixture.mixture import PlannedDataset
from cambrian_gaze.data.mixture.plan import Draw, EpochOrder
from cambrian_gaze.data.mixture.streams import StreamDataset, StreamedPlan
from cambrian_gaze.data.quarantine import QuarantineLog
from cambrian_gaze.files import write_json
from cambrian_gaze.training.launch.requests import outlive_requests
from cambrian_gaze.training.order.position import EpochSegment, Position, Split, StepSchedule


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


class DataOrder:
    """Which samples the steps of a run read: from the start, or from the position of a checkpoint on, on any number of
    ranks.

    transformers' Trainer resumes by reading an epoch's batches again up to the last step, and takes all epochs to have
    the same number of steps. Here the loader begins at the position, and every epoch has the steps of its own plan.
    """

    schedule: StepSchedule
    """Position and steps of the run, once `begin_run` has made it."""

    def __init__(
        self, order: EpochOrder | None, quarantine: QuarantineLog | None, args: Any, cost: Callable[..., float]
    ) -> None:
        """Args:
        order: of the rows of the training data; without one there is nothing to train on.
        quarantine: the log that the data write to.
        args: `TrainingArguments`.
        cost: FLOPs of a pack by its tokens, the sum over its samples of their length squared, and its pictures.
        """
        self.order, self._quarantine, self._args, self._cost = order, quarantine, args, cost
        self._start = Position()
        self._stream_state: str | None = None
        self._loader: DataLoader | None = None

    def resume(self, checkpoint: str | None, dataset: Dataset) -> None:
        """Begin at the position of a checkpoint, or at the start. Raises ValueError where the file is damaged."""
        self._start = Position.load(checkpoint) if checkpoint else Position()
        if checkpoint and isinstance(dataset, StreamDataset):
            self._stream_state = self._stream_file(checkpoint).read_text(encoding="utf-8")
            dataset.resume(json.loads(self._stream_state))

    def loader(self, dataset: Dataset, collate: Callable[[list[Any]], dict[str, Any]]) -> DataLoader:
        """Batches of this rank in the order of `OrderedBatches`."""
        if self.order is None:
            raise ValueError("this trainer was made without `order`, and can only evaluate")
        args = self._args
        split = Split(
            args.per_device_train_batch_size,
            args.gradient_accumulation_steps,
            args.data_parallel_size,
            args.dataloader_drop_last,
        )
        cost = None if self.order.units is None else self._pack_cost
        self._batches = OrderedBatches(self.order, split, rank=args.data_parallel_rank, cost=cost)
        plan = StreamedPlan if isinstance(dataset, StreamDataset) else PlannedDataset
        planned = plan(dataset, self.order.capacity, self._quarantine)
        self._loader = train_loader(planned, collate, self._batches, args)
        return self._loader

    def begin_run(self) -> StepSchedule:
        """The steps from the position on. Raises ValueError where the position is one of other data."""
        self._start.check(self.order)
        args, split = self._args, self._batches.split
        most = args.max_steps if args.max_steps > 0 else None
        self.schedule = StepSchedule(self.order, split, self._start, epochs=args.num_train_epochs, max_steps=most)
        self.schedule.say_changes()
        return self.schedule

    def begin_epoch(self, epoch: int) -> EpochSegment:
        """The steps of an epoch that are still to be done, which the loader gives next."""
        part = self.schedule.parts[epoch]
        self._batches.begin(epoch, part.start, part.first_step + 1, part.end)
        return part

    def take(
        self, batches: Iterable[dict[str, Any]], number: int, beat: Callable[[str], object]
    ) -> list[dict[str, Any]]:
        """The next `number` micro-batches, or what is left of them; calls `beat` at each. Of streamed data it remembers
        where the stream is after these; what was read ahead does not count."""
        taken = []
        for batch in itertools.islice(batches, number):
            taken.append(batch)
            self._stream_state = batch.pop("stream_state", self._stream_state)
            beat("a micro-batch")
        return taken

    def save(self, checkpoint: Path, step: int) -> None:
        """Write where the data stands after optimizer step `step`, and of streamed data where this rank's stream is."""
        if self._stream_state is not None:
            write_json(self._stream_file(checkpoint), json.loads(self._stream_state))
        if self._args.should_save:
            self.schedule.position(step).save(checkpoint)

    def end_workers(self) -> None:
        """End the processes that the loader keeps from epoch to epoch. At the interpreter's exit they would get
        SIGTERM, which they outlive for a while (`requests.outlive_requests`)."""
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()

    def _pack_cost(self, rows: np.ndarray) -> float:
        lengths = self.order.lengths[rows].astype(np.float64)
        return self._cost(lengths.sum(), (lengths**2).sum(), float(self.order.units[rows].sum()))

    def _stream_file(self, checkpoint: Path | str) -> Path:
        return Path(checkpoint) / f"data_stream_{self._args.process_index}.json"
