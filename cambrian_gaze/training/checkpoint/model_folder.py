"""What lies in the folder of a saved model beside the weights: their origin, their settings, stage 1's export."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from cambrian_gaze.models.folders.lineage import data_recipe, parent, write_lineage
from cambrian_gaze.training.adapters import is_adapted, without_peft_card
from cambrian_gaze.training.checkpoint.projector import EXPORT_NAME, export_projector
from cambrian_gaze.training.config.config import RunConfig

PARENTS = {"model_name_or_path": "model", "vision_tower": "vision tower", "pretrain_mm_mlp_adapter": "projector"}
"""Key of a configuration → the parent's role in the lineage."""
_PLACES = ("data_path", "image_folder", "video_folder")
_NOT_SEEN = ("eval_data_path", "max_quarantined_share", "quarantine_log")
"""Options that change nothing about the samples trained on."""


def origin_of(run: RunConfig) -> dict[str, Any]:
    """`parents` and `data` of the lineage that is written beside the run's checkpoints. Reads the parents' weights and
    the record files once."""
    parents = [parent(role, name) for field, role in PARENTS.items() if (name := getattr(run.model, field)) is not None]
    if run.model.preset is not None and run.model.model_name_or_path is None:
        parents.insert(0, {"role": "preset, fresh weights", "name": run.model.preset})
    values = {k: v for k, v in dataclasses.asdict(run.data).items() if k not in (*_PLACES, *_NOT_SEEN)}
    return {"parents": parents, "data": data_recipe(values, run.data.data_path or [])}


class ModelFolder:
    """Completes what transformers' Trainer saves of a model (or adapter) and its processor."""

    def __init__(self, model: nn.Module, stage: int, origin: dict[str, Any] | None) -> None:
        """Args:
        model: with its own configuration still, before a trainer has changed `use_cache`.
        origin: what `origin_of` gave; None where this rank writes no lineage.
        """
        self._model, self._stage, self._origin = model, stage, origin
        self._use_cache = getattr(model.config, "use_cache", None)

    @contextlib.contextmanager
    def saving(self, folder: Path, step: int, writes: bool, is_checkpoint: bool) -> Iterator[None]:
        """The block saves model and processor into `folder`, which then gets an adapter's configuration, its lineage
        and in stage 1 `mm_projector.safetensors`.

        Args:
            step: optimizer steps taken.
            writes: whether this rank writes files.
            is_checkpoint: whether the model is part of a checkpoint, and not the run's result.
        """
        config, trained_with = self._model.config, getattr(self._model.config, "use_cache", None)
        if self._use_cache is not None:
            config.use_cache = self._use_cache
        writes_adapter = writes and is_adapted(self._model)
        try:
            with without_peft_card(folder) if writes_adapter else contextlib.nullcontext():
                yield
            if writes_adapter:
                config.save_pretrained(folder)
        finally:
            if self._use_cache is not None:
                config.use_cache = trained_with
        if writes and not is_checkpoint:
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; run_config.json says the same
        if writes and self._stage == 1:
            export_projector(self._model, folder / EXPORT_NAME, step=step)
        # A sharded save leaves the weights to be gathered later.
        if writes and self._origin is not None and any(folder.glob("*.safetensors")):
            write_lineage(folder, f"train, stage {self._stage}, step {step}", **self._origin)
