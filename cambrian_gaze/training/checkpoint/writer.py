"""The checkpoints of a run: written whole or not at all, and loaded on any number of ranks."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import nn

from cambrian_gaze.attention.choice.run_choice import RunChoice
from cambrian_gaze.training.checkpoint.checkpoint import (
    NotSavedError,
    damage,
    delete,
    digests,
    files_of,
    last_complete_checkpoint,
    mark_complete,
    prune,
    read_marker,
)
from cambrian_gaze.training.checkpoint.resume import VIEW, drop_universal, first_rank_decides, zero_stage

logger = logging.getLogger(__name__)

FEWEST_BETWEEN = 10
"""Steps between two checkpoints where the interval is chosen for a short run."""


class Checkpoints:
    """All ranks together write a checkpoint into a folder that they share."""

    def __init__(self, args: Any, fits_save_steps: bool = False) -> None:
        """Args:
        args: `TrainingArguments`.
        fits_save_steps: whether a `save_steps` beyond the end of the run is brought down to a share of it.
        """
        self._args, self._fits_save_steps = args, fits_save_steps
        self.attention = RunChoice()
        """What `backend: auto` has taken in this run."""

    # Loading

    def resume_attention(self, checkpoint: str) -> None:
        """A run that goes on takes the attention backend that it had."""
        choice, marker = self.attention, read_marker(checkpoint)
        choice.names |= first_rank_decides(lambda: choice.usable(marker.get("attention"), self._args.device))

    def drop_universal_form(self, checkpoint: str, engine: nn.Module) -> None:
        """DeepSpeed's `engine` has loaded the universal form, which is of no further use."""
        self.wait_for_all()
        # DeepSpeed would look for this form in every checkpoint, such as the best one at the end.
        engine._config.load_universal_checkpoint = False
        if self._is_first:
            drop_universal(checkpoint)
        self.wait_for_all()

    def drop_view(self) -> None:
        """Delete what a resumed run has made of its checkpoint in order to load it."""
        if self._is_first:
            shutil.rmtree(Path(self._args.output_dir) / VIEW, ignore_errors=True)

    def new_seed(self, checkpoint: str | None, step: int) -> int | None:
        """None where the rank's random generators are to be as the checkpoint has them; on another number of ranks a
        seed for new ones, from the run's seed, step and rank."""
        if checkpoint is None or read_marker(checkpoint).get("world_size", self._ranks) == self._ranks:
            return None
        entropy = [self._args.seed, step, self._args.process_index]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    # Saving

    def fit_interval(self, steps: int) -> None:
        """A run that is shorter than the interval of its checkpoints would lose all when it is killed."""
        args = self._args
        fitting = max(FEWEST_BETWEEN, steps // 4)
        if self._fits_save_steps and args.save_strategy == "steps" and args.save_milestone_steps is None:
            if args.save_steps > steps > fitting:
                logger.warning(
                    "save_steps is %d instead of %g: the run has %d steps (--save_steps on the command line is left as "
                    "it is)",
                    *(fitting, args.save_steps, steps),
                )
                args.save_steps = fitting

    @contextlib.contextmanager
    def writing(self, folder: Path, step: int, best: Callable[[], str | None]) -> Iterator[None]:
        """The block writes a checkpoint into `folder`. Then comes the marker that says it is whole, then the removal of
        old ones, but for the `best`.

        Raises: NotSavedError where it cannot be written (a full disk); what was written of it is deleted.
        """
        try:
            if self._args.should_save and folder.exists():
                delete(folder)
            self.wait_for_all()
            limit, self._args.save_total_limit = self._args.save_total_limit, None
            try:
                yield
            finally:
                self._args.save_total_limit = limit
            self.wait_for_all()
            sha256 = self._digests(folder)
            if self._args.should_save:
                mark_complete(folder, step, sha256, **self._facts())
                protected = [path for path in (folder, best()) if path]
                prune(folder.parent, limit, protected, self._args.save_milestone_steps)
            self.wait_for_all()
        except Exception as error:
            if damage(folder) is None:
                raise
            # The first rank alone deletes: it alone knows that it is not about to mark the folder.
            if self._is_first:
                shutil.rmtree(folder, ignore_errors=True)
            good, _ = last_complete_checkpoint(folder.parent)
            kept = f"{good} is whole and" if good else "There is no earlier checkpoint:"
            raise NotSavedError(
                f"{folder} could not be written ({error}); {_free(folder.parent)} are free there. The run stops, "
                f"since what it would do now could be lost. {kept} the same command goes on "
                + ("from it" if good else "from the start")
            ) from error

    def wait_for_all(self) -> None:
        """A barrier."""
        if self._args.world_size > 1:
            dist.barrier()

    @property
    def _ranks(self) -> int:
        return max(1, self._args.world_size)

    @property
    def _is_first(self) -> bool:
        return self._args.process_index == 0

    def _facts(self) -> dict[str, Any]:
        """What stands in the marker of a checkpoint that is written now, beside step and files."""
        return {
            "world_size": self._ranks,
            "zero_stage": zero_stage(self._args),
            "resumable": not self._args.save_only_model,
            "attention": self.attention.state(self._args.device),
        }

    def _digests(self, folder: Path) -> dict[str, str]:
        """SHA-256 of all files, each of which one rank has read."""
        names = [files_of(folder) if self._is_first else None]
        if self._ranks == 1:
            return digests(folder, names[0], flush=True)
        dist.broadcast_object_list(names, src=0)
        by_size = sorted(names[0], key=lambda name: -(folder / name).stat().st_size)
        parts: list[dict[str, str]] = [{} for _ in range(self._ranks)]
        dist.all_gather_object(parts, digests(folder, by_size[self._args.process_index :: self._ranks], flush=True))
        return {name: digest for part in parts for name, digest in part.items()}


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB"
