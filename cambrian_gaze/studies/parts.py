"""What a study is made of and shares with others: data, towers and trained models, each made once.

Below the runs folder::

    SIZE/seed-N/data-ID/     GazeBench
    SIZE/seed-N/tower-ID/    the tower that has learned to see it
    SIZE/seed-N/model-ID/    a trained model; an interrupted training continues from its last checkpoint
    SIZE/seed-N/done/        a marker for each, with its seconds and what came of it

ID stands for everything that the part depends on, so that two studies that train the same model train it once.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from cambrian_gaze.declarations import declaration
from cambrian_gaze.files import write_text
from cambrian_gaze.gazebench.make import data_format, make
from cambrian_gaze.quickstart.steps import Steps
from cambrian_gaze.studies.study import Size, Study, identity

BASE = "train/configs/quickstart_dense.yaml"
"""What every model's training starts from."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Something that was made: its folder, and what is known of it."""

    folder: Path
    identity: str
    seconds: float
    facts: dict[str, Any]


class Parts:
    """The parts of one study for one seed, made when they are asked for."""

    def __init__(self, study: Study, size: Size, seed: int, runs: Path, device: str) -> None:
        self.study, self.size, self.seed, self.device = study, size, seed, device
        self.folder = runs / size.name / f"seed-{seed}"
        self.bench = study.bench(size, seed)
        self._known: dict[str, Part] = {}

    def data(self, model: str | None = None) -> Part:
        """The seed's questions, and the pages that its models are trained on; with a model, where that has its own,
        these."""
        bench = self.study.bench(self.size, self.seed, model)
        own = identity("data", data_format(bench), bench.to_dict())
        return self._made("data", own, lambda folder: {"written": make(folder, bench)})

    def tower(self) -> Part:
        """The seed's tower."""
        spec = self.study.tower(self.size, self.seed)
        seen = {
            name: value for name, value in self.bench.to_dict().items() if name not in ("train", "validation", "test")
        }
        own = identity("tower", seen, spec)

        def action(folder: Path) -> dict[str, Any]:
            from cambrian_gaze.studies.tower import pretrain_glyphs

            return pretrain_glyphs(self.bench, spec, folder, self.device)

        return self._made("tower", own, action)

    def model(self, name: str) -> Part:
        """A trained model of the study."""
        start = self.study.models[name].get("start")
        data, tower = self.data(name), self.tower()
        first = None if start is None else self.model(start)
        flags = self.study.flags(self.size, name)
        own = identity("model", data.identity, tower.identity, first and first.identity, flags, self.device)
        return self._made("model", own, lambda folder: self._train(folder, flags, data, tower, first), resumes=True)

    def _train(
        self, folder: Path, flags: dict[str, Any], data: Part, tower: Part, first: Part | None
    ) -> dict[str, Any]:
        from cambrian_gaze.quickstart.train import run_training

        values = {
            "base": str(declaration(BASE).resolve()),
            "data_path": str(data.folder / "train.jsonl"),
            "image_folder": str(data.folder),
            "output_dir": str(folder),
            "seed": self.seed,
            "use_cpu": self.device == "cpu",
            "deepspeed": None,
            # Beside the gradients of a model that has learned its task any are a spike, those of fewer regions first.
            "grad_spike_factor": 0,
            "nproc_per_node": 1,
            "vision_tower": str(tower.folder),
        }
        if first is not None:
            values |= {"preset": None, "model_name_or_path": str(first.folder), "vision_tower": None}
        folder.mkdir(parents=True, exist_ok=True)
        config = write_text(folder / "training.yaml", yaml.safe_dump(values | flags, sort_keys=False))
        # Threads wait for each other at every small operation: a number of its own, whatever the machine has.
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.size.threads)}
        result = run_training([sys.executable, "-m", "cambrian_gaze.cli.train", str(config)], environment, folder)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        return result

    def _made(self, kind: str, own: str, action: Callable[[Path], dict[str, Any]], resumes: bool = False) -> Part:
        name = f"{kind} {own}"
        if name not in self._known:
            folder = self.folder / f"{kind}-{own}"
            steps = Steps(self.folder / "done")
            steps.folder.mkdir(parents=True, exist_ok=True)
            steps.run(name, own, [folder], lambda: action(folder), resumes=resumes)
            self._known[name] = Part(folder, own, steps.seconds[name], steps.result(name))
        return self._known[name]
