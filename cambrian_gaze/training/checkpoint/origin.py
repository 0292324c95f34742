"""Where the weights of a run come from: the checkpoints that it starts from and the data that it reads."""

from __future__ import annotations

import dataclasses
from typing import Any

from cambrian_gaze.models.folders.lineage import data_recipe, parent
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
