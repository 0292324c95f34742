"""`CheckpointedTrainer`: a guarded trainer whose checkpoints are marked when whole, and load on other ranks."""

from __future__ import annotations

import logging
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import nn
from transformers import set_seed

from cambrian_gaze.attention.choice.run_choice import RunChoice, in_run
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
from cambrian_gaze.training.checkpoint.pickles import check_checkpoint
from cambrian_gaze.training.checkpoint.resume import VIEW, drop_universal, first_rank_decides, is_universal, zero_stage
from cambrian_gaze.training.guarded import GuardedTrainer

logger = logging.getLogger(__name__)


class CheckpointedTrainer(GuardedTrainer):
    """Takes this package's `TrainingArguments`. A checkpoint is written by all ranks into a folder that they share."""

    @cached_property
    def attention_choice(self) -> RunChoice:
        """What `backend: auto` has taken in this run."""
        return RunChoice()

    # Loading

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """As Trainer's; `resume_from_checkpoint` is what `resume.checkpoint_to_resume` gave. A run that goes on takes
        the attention backend that it had."""
        if resume_from_checkpoint:
            choice, marker = self.attention_choice, read_marker(resume_from_checkpoint)
            choice.names |= first_rank_decides(lambda: choice.usable(marker.get("attention"), self.args.device))
        if resume_from_checkpoint and is_universal(resume_from_checkpoint):
            # The universal form has the trained parameters alone, and the frozen ones must be the checkpoint's too.
            self._load_from_checkpoint(resume_from_checkpoint)
        try:
            with in_run(self.attention_choice):
                return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            if self.is_world_process_zero():
                shutil.rmtree(Path(self.args.output_dir) / VIEW, ignore_errors=True)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As Trainer's, after DeepSpeed has loaded: the universal form has done its service."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint and is_universal(checkpoint):
            self.wait_for_all()
            # DeepSpeed would look for this form in every checkpoint, such as the best one at the end.
            self.model_wrapped._config.load_universal_checkpoint = False
            if self.is_world_process_zero():
                drop_universal(checkpoint)
            self.wait_for_all()

    def _load_best_model(self) -> None:
        """As Trainer's; where the best one lies is what `trainer_state.json` says, so it is checked as well."""
        check_checkpoint(self.state.best_model_checkpoint)
        super()._load_best_model()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """The rank's own generators as they were; on another number of ranks new ones from seed, step and rank."""
        ranks = max(1, self.args.world_size)
        if checkpoint is None or read_marker(checkpoint).get("world_size", ranks) == ranks:
            super()._load_rng_state(checkpoint)
            return
        entropy = [self.args.seed, self.state.global_step, self.args.process_index]
        set_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    # Saving

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer's checkpoint, then the marker that says it is whole, then the removal of old ones.

        Raises: NotSavedError where it cannot be written (a full disk); what was written of it is deleted.
        """
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        try:
            self._write(folder, model, trial)
        except Exception as error:
            if damage(folder) is None:
                raise
            # The first rank alone deletes: it alone knows that it is not about to mark the folder.
            if self.is_world_process_zero():
                shutil.rmtree(folder, ignore_errors=True)
            good, _ = last_complete_checkpoint(folder.parent)
            kept = f"{good} is whole and" if good else "There is no earlier checkpoint:"
            raise NotSavedError(
                f"{folder} could not be written ({error}); {_free(folder.parent)} are free there. The run stops, "
                f"since what it would do now could be lost. {kept} the same command goes on "
                + ("from it" if good else "from the start")
            ) from error

    def _write(self, folder: Path, model: nn.Module, trial: Any) -> None:
        if self.args.should_save and folder.exists():
            delete(folder)
        self.wait_for_all()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.save_stream_state(folder)
        if self.args.should_save:
            self.course.position(self.state.global_step).save(folder)
        self.wait_for_all()
        sha256 = self._digests(folder)
        if self.args.should_save:
            mark_complete(folder, self.state.global_step, sha256, **self._facts())
            protected = [path for path in (folder, self.state.best_model_checkpoint) if path]
            prune(folder.parent, limit, protected, self.args.save_milestone_steps)
        self.wait_for_all()

    def _facts(self) -> dict[str, Any]:
        """What stands in the marker of a checkpoint that is written now, beside step and files."""
        return {
            "world_size": max(1, self.args.world_size),
            "zero_stage": zero_stage(self.args),
            "resumable": not self.args.save_only_model,
            "attention": self.attention_choice.state(self.args.device),
        }

    def _digests(self, folder: Path) -> dict[str, str]:
        """SHA-256 of all files, each of which one rank has read."""
        ranks = max(1, self.args.world_size)
        names = [files_of(folder) if self.is_world_process_zero() else None]
        if ranks == 1:
            return digests(folder, names[0], flush=True)
        dist.broadcast_object_list(names, src=0)
        by_size = sorted(names[0], key=lambda name: -(folder / name).stat().st_size)
        parts: list[dict[str, str]] = [{} for _ in range(ranks)]
        dist.all_gather_object(parts, digests(folder, by_size[self.args.process_index :: ranks], flush=True))
        return {name: digest for part in parts for name, digest in part.items()}

    def wait_for_all(self) -> None:
        """A barrier."""
        if self.args.world_size > 1:
            dist.barrier()


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB"
