"""The parts of a run, which know nothing of transformers' Trainer: their options, and how they are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from cambrian_gaze.data.mixture.plan import EpochOrder
from cambrian_gaze.data.quarantine import NOTHING_MISSING, ExpectedMissing, QuarantineLog
from cambrian_gaze.training.checkpoint.writer import Checkpoints
from cambrian_gaze.training.config.accepted import schedules_by_metric
from cambrian_gaze.training.config.arguments import TrainingArguments
from cambrian_gaze.training.faults.guard import QuarantineLimit, StepGuard
from cambrian_gaze.training.gaze_schedule import GazeSchedule
from cambrian_gaze.training.launch.requests import StopRequest
from cambrian_gaze.training.metrics.flops import FlopsModel, peak_flops
from cambrian_gaze.training.metrics.loss_split import LossSplit, source_names
from cambrian_gaze.training.metrics.meter import Meter
from cambrian_gaze.training.metrics.probe import MassProbe
from cambrian_gaze.training.metrics.task_scores import Benchmarks, TaskScores
from cambrian_gaze.training.order.order import DataOrder


@dataclass(frozen=True)
class RunOptions:
    """What a run hands to its trainer beside `TrainingArguments`, model and data."""

    order: EpochOrder | None = None
    """Of the rows of the training data; needed to train."""
    quarantine: QuarantineLog | None = None
    """The log that the training data write to."""
    max_quarantined_share: float = 1.0
    """The run stops with a summary beyond it; over-long samples do not count."""
    expected_missing: ExpectedMissing = NOTHING_MISSING
    """Samples without their media that do not count either."""
    progressive: bool = True
    """Progressive TopK in stage 2 (`GazeConfig.schedule`)."""
    request: StopRequest = field(default_factory=StopRequest)
    """Says when to stop."""
    fits_save_steps: bool = False
    """Whether a `save_steps` beyond the end of the run is brought down to a share of it."""
    origin: dict[str, Any] | None = None
    """`parents` and `data` of the lineage beside every model that is saved (`checkpoint/model_folder.py`)."""
    benchmarks: Benchmarks | None = None
    """Answered in each evaluation, or every `benchmark_steps` steps of those (`metrics/task_scores.py`)."""
    benchmark_steps: int | None = None


class RunParts:
    """What `CambrianTrainer` leaves its work to."""

    def __init__(
        self,
        options: RunOptions,
        args: TrainingArguments,
        model: nn.Module,
        collate: Callable[[list[Any]], dict[str, Any]],
        train_data: Dataset | None,
        eval_data: Dataset | None,
    ) -> None:
        """`model`: the bare one, with its frozen parts. `collate`: samples → a batch."""
        flops, peak = FlopsModel.of(model), peak_flops(args.device, args.peak_tflops)
        self.data = DataOrder(options.order, options.quarantine, args, flops.total)
        """Which samples a step reads."""
        self.meter = Meter(flops, peak, max(1, args.world_size), args.sequence_parallel_size)
        """What the batches hold, and how fast they are."""
        self.gaze_schedule = GazeSchedule(model.config.gaze_config, args, options.progressive)
        """How much a step attends to."""
        self.loss_split = LossSplit(source_names(train_data), args.device)
        """The loss by source and modality."""
        self.guard = StepGuard(args)
        """Bad steps, and the watchdog."""
        log = None if options.quarantine is None else options.quarantine.path
        self.quarantine_limit = QuarantineLimit(options.max_quarantined_share, options.expected_missing, log)
        """How many samples may be missing."""
        self.probe = MassProbe(eval_data or train_data, collate, args.probe_steps if args.process_index == 0 else 0)
        """Whether the chosen regions are those that matter."""
        self.task_scores = task_scores(options, args, self.guard.watchdog.beat)
        """The benchmarks."""
        self.checkpoints = Checkpoints(args, options.fits_save_steps)
        """Writing and loading the run's state."""


def task_scores(options: RunOptions, args: TrainingArguments, beat: Callable[[str], object]) -> TaskScores | None:
    """The benchmarks, where there are any. A request to stop cuts them short, but where the schedule of the learning
    rate needs a score: Trainer would end with an error."""
    if options.benchmarks is None:
        return None
    needs_all = schedules_by_metric(args)

    def stop() -> bool:
        return not needs_all and bool(options.request.agree(args.device))

    return TaskScores(options.benchmarks, options.benchmark_steps, beat, stop)
