"""`OrderedTrainer`: Hugging Face's Trainer whose data follows an `EpochOrder` from an exact position.

Trainer resumes by reading an epoch's batches again up to the last step, and takes all epochs to have the same number of
steps. Here the loader begins at the position that the checkpoint names, and every epoch has the steps of its own plan.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as HfTrainingArguments

from cambrian_gaze.data.mixture.plan import EpochOrder, PlannedDataset
from cambrian_gaze.data.mixture.streams import StreamDataset, StreamedPlan
from cambrian_gaze.data.quarantine import QuarantineLog
from cambrian_gaze.files import write_json
from cambrian_gaze.training.order.order import OrderedBatches, Split, train_loader
from cambrian_gaze.training.order.position import Position, StepSchedule

logger = logging.getLogger(__name__)

FEWEST_BETWEEN = 10
"""Steps between two checkpoints where the interval is chosen for a short run."""


class OrderedTrainer(Trainer):
    """Trains on `order`; with the position of a checkpoint it goes on there, on any number of ranks."""

    course: StepSchedule
    """Position and steps of the run, once it has started."""
    fits_save_steps = False
    """Whether a `save_steps` beyond the end of the run is brought down to a share of it."""

    def __init__(
        self, *args: Any, order: EpochOrder | None = None, quarantine: QuarantineLog | None = None, **kwargs: Any
    ) -> None:
        """Args beyond those of `transformers.Trainer`:

        order: of the rows of `train_dataset`; needed to train.
        quarantine: the log that `train_dataset` writes to.
        """
        super().__init__(*args, **kwargs)
        self.order, self.quarantine = order, quarantine
        self._start = Position()
        self._stream_state: str | None = None
        self._loader: torch.utils.data.DataLoader | None = None
        self.add_callback(ExactEpoch(self))

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """As Trainer's; `resume_from_checkpoint` is a folder. Raises ValueError where its position does not fit."""
        self._start = Position.load(resume_from_checkpoint) if resume_from_checkpoint else Position()
        if resume_from_checkpoint and isinstance(self.train_dataset, StreamDataset):
            self._stream_state = self._stream_file(resume_from_checkpoint).read_text(encoding="utf-8")
            self.train_dataset.resume(json.loads(self._stream_state))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def take_stream_states(self, batches: list[dict[str, Any]]) -> None:
        """Of streamed data, remember where the stream is after these batches; what was read ahead does not count."""
        for batch in batches:
            self._stream_state = batch.pop("stream_state", self._stream_state)

    def save_stream_state(self, checkpoint: Path) -> None:
        """Of streamed data, write where this rank's stream is."""
        if self._stream_state is not None:
            write_json(self._stream_file(checkpoint), json.loads(self._stream_state))

    def _stream_file(self, checkpoint: Path | str) -> Path:
        return Path(checkpoint) / f"data_stream_{self.args.process_index}.json"

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """Batches of this rank in the order of `OrderedBatches`."""
        if self.order is None:
            raise ValueError("this trainer was made without `order`, and can only evaluate")
        args = self.args
        split = Split(
            args.per_device_train_batch_size,
            args.gradient_accumulation_steps,
            args.data_parallel_size,
            args.dataloader_drop_last,
        )
        cost = None if self.order.units is None else self.pack_cost
        self._batches = OrderedBatches(self.order, split, rank=args.data_parallel_rank, cost=cost)
        plan = StreamedPlan if isinstance(self.train_dataset, StreamDataset) else PlannedDataset
        dataset = plan(self.train_dataset, self.order.capacity, self.quarantine)
        self._loader = train_loader(dataset, self.data_collator, self._batches, args)
        return self._loader

    def end_workers(self) -> None:
        """End the processes that loaders keep from epoch to epoch. At the interpreter's exit they would get SIGTERM,
        which they outlive for a while (`requests.outlive_requests`)."""
        for loader in (self._loader, *getattr(self, "_eval_dataloaders", {}).values()):
            iterator = getattr(getattr(loader, "base_dataloader", loader), "_iterator", None)
            if iterator is not None:
                iterator._shutdown_workers()

    def pack_cost(self, rows: np.ndarray) -> float:
        """What a pack of these rows costs, in any unit: by default its tokens and pictures."""
        return float(self.order.lengths[rows].sum() + self.order.units[rows].sum())

    def set_initial_training_values(
        self, args: HfTrainingArguments, dataloader: torch.utils.data.DataLoader
    ) -> tuple[int, int, int, int, int, int | None, int]:
        """Epochs, steps and samples of the run, see Trainer's; the steps of an epoch are those of its `Part`."""
        self._start.check(self.order)
        max_steps = args.max_steps if args.max_steps > 0 else None
        self.course = course = StepSchedule(
            self.order, self._batches.split, self._start, epochs=args.num_train_epochs, max_steps=max_steps
        )
        course.say_changes()
        self._fit_save_steps(course.max_steps)
        samples, batch = len(self.order.rows), self._batches.split.global_batch
        first = course.parts.get(course.epochs.start)
        steps, micro_steps = (first.steps, first.micro_steps) if first else (1, 1)
        return course.epochs.stop, steps, samples, samples * len(course.epochs), batch, micro_steps, course.max_steps

    def _fit_save_steps(self, steps: int) -> None:
        """A run that is shorter than the interval of its checkpoints would lose all when it is killed."""
        args = self.args
        fitting = max(FEWEST_BETWEEN, steps // 4)
        if self.fits_save_steps and args.save_strategy == "steps" and args.save_milestone_steps is None:
            if args.save_steps > steps > fitting:
                logger.warning(
                    "save_steps is %d instead of %g: the run has %d steps (--save_steps on the command line is left as "
                    "it is)",
                    *(fitting, args.save_steps, steps),
                )
                args.save_steps = fitting

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """The epoch that goes on, and no batches to skip."""
        super()._init_training_state(*args, **kwargs)
        return self.course.epochs.start, 0

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        part = self.course.parts[epoch]
        self._batches.begin(epoch, part.start, part.first_step + 1, part.end)
        kwargs |= {"steps_in_epoch": part.micro_steps, "num_update_steps_per_epoch": part.steps}
        super()._run_epoch(epoch=epoch, **kwargs)


class ExactEpoch(TrainerCallback):
    """Trainer counts an epoch's share from where the run was resumed; this sets what was consumed of its plan."""

    def __init__(self, trainer: OrderedTrainer) -> None:
        self._trainer = trainer

    def on_step_end(
        self, args: HfTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Correct `state.epoch`, before it is logged and saved."""
        state.epoch = self._trainer.course.progress(state.global_step)
