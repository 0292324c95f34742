"""How much of dense attention the chosen regions would hold, on a batch that stays the same through the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cambrian_gaze.training.metrics.samples import eval_mode, samples_with_pictures

SAMPLES = 4


class MassProbe:
    """Measures with the model's own K, whatever the schedule's. The ranks' weights are the same, so one rank does."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], dict[str, Any]], every: int) -> None:
        """`dataset`: the batch is taken from it when the probe is first due. `every`: optimizer steps; 0 never."""
        self.dataset, self.collate, self.every = dataset, collate, every
        self._batch: dict[str, Any] | None = None

    def report(self, model: Any, step: int) -> dict[str, float]:
        """`probe_mass` where the probe is due: the share of dense attention to visual tokens that lies inside the
        chosen regions, see `GazeStats.topk_mass`."""
        if not self.every or step % self.every:
            return {}
        if self._batch is None:
            samples = samples_with_pictures(self.dataset, SAMPLES)
            self._batch = self.collate(samples) if samples else {}
        inputs = {name: x.to(model.device) for name, x in self._batch.items() if isinstance(x, torch.Tensor)}
        inputs.pop("labels", None)
        if not inputs:
            return {}
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        with eval_mode(model):
            mass = model(**inputs, return_gaze="mass", use_cache=False, logits_to_keep=1).gaze.topk_mass
        return {} if mass is None else {"probe_mass": mass}
