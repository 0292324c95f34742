"""`cambrian-gaze train`: hands the evaluation's benchmarks to the training, which does not know them.

Under a launcher this is the module of the ranks. torch is imported only once they have started.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cambrian_gaze.training.launch.launch import main as launch

if TYPE_CHECKING:
    from cambrian_gaze.evaluation.while_training import BenchmarkParts
    from cambrian_gaze.training.config.config import RunConfig

ANSWERS = "eval_tasks"
"""Folder in `output_dir` with the answers of each evaluation."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train, in this process or in several. Returns the exit status."""
    return launch(argv, benchmarks=open_parts)


def open_parts(run: RunConfig) -> BenchmarkParts:
    """The parts of the benchmarks that a run names, read and checked."""
    from cambrian_gaze.evaluation.ranks import Ranks
    from cambrian_gaze.evaluation.while_training import BenchmarkParts, PartOptions
    from cambrian_gaze.training.data import frame_sampling

    tasks, training = run.tasks, run.training
    options = PartOptions(
        tasks=tasks.eval_tasks,
        limit=tasks.eval_tasks_limit,
        folder=Path(training.output_dir) / ANSWERS,
        data_root=tasks.eval_tasks_data_root,
        batch_size=training.per_device_eval_batch_size,
        sampling=frame_sampling(run.data),
    )
    return BenchmarkParts(options, Ranks(training.process_index, max(1, training.world_size), str(training.device)))


if __name__ == "__main__":
    sys.exit(main())
