"""How large each step of the quickstart is: the full run and the smoke run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cambrian_gaze.declarations import declaration
from cambrian_gaze.quickstart.digits import PageSpec
from cambrian_gaze.quickstart.pretrain_tower import TowerSpec

CONFIG_NAMES = {"stage1": "quickstart_stage1.yaml", "dense": "quickstart_dense.yaml", "gaze": "quickstart_gaze.yaml"}


@dataclass(frozen=True)
class QuickstartPlan:
    """Sizes of one run. What is not here stands in the YAML files of the training runs."""

    pages: PageSpec
    tower: TowerSpec
    seed: int
    smoke: bool
    batch_size: int = 128
    """Held-out questions answered at a time."""
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Training run → flags that replace what its YAML file says."""

    def config(self, run: str) -> Path:
        """The YAML file of a training run (`stage1`, `dense` or `gaze`)."""
        return declaration(Path("train", "configs", CONFIG_NAMES[run]))

    def training_identity(self, run: str) -> list[Any]:
        """What the training run depends on, beside the steps before it: every YAML file in its chain and the flags."""
        from cambrian_gaze.training.config.layers import read_layers

        layers = [[path.name, layer] for path, layer in read_layers(self.config(run))]
        return [layers, self.overrides.get(run, {}), self.seed]


def full_plan(seed: int = 0) -> QuickstartPlan:
    """The real run: under 20 minutes on two CPU cores."""
    return QuickstartPlan(PageSpec(seed=seed), TowerSpec(seed=seed), seed, smoke=False)


def smoke_plan(seed: int = 0) -> QuickstartPlan:
    """The same way in under two minutes. Nothing is learned well enough to claim anything."""
    pages = PageSpec(train_pages=400, heldout_pages=16, questions_per_page=2, variants=4, seed=seed)
    tower = dataclasses.replace(TowerSpec(seed=seed), steps=40)
    steps = {"max_steps": 12, "logging_steps": 2, "save_steps": 6}
    return QuickstartPlan(pages, tower, seed, smoke=True, overrides={name: steps for name in CONFIG_NAMES})
