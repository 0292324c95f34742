"""Runs a study: seed after seed its parts, its answers, and a file of raw results that grows with each seed.

Whatever is there already is not made again: a run that was killed goes on where it was.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze import __version__
from cambrian_gaze.gazebench.make import data_format
from cambrian_gaze.machine import cores, cpu_name, versions
from cambrian_gaze.plugins import loaded_plugins
from cambrian_gaze.studies.answers import answer_seed
from cambrian_gaze.studies.parts import Parts
from cambrian_gaze.studies.results import add_seed, earlier_seeds
from cambrian_gaze.studies.study import Size, Study

RUNS = Path("runs", "studies")
RESULTS = Path("docs", "proof")
PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "pillow")


def run_study(
    study: Study, size: Size, runs: Path = RUNS, results: Path = RESULTS, seeds: Sequence[int] | None = None
) -> Path:
    """Run every seed and write it into `results/STUDY-SIZE.json`, beside the seeds that are there; returns its path.

    Raises: TrainingFailed where a training ends with an error; ValueError where the file holds another study's seeds.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(size.threads)
    path = results / f"{study.name}-{size.name}.json"
    definition, machine = _definition(study, size), _machine(size, device)
    earlier_seeds(path, definition)  # before anything is trained
    for seed in size.seeds if seeds is None else seeds:
        print(f"== {study.name}, size {size.name}, seed {seed}", flush=True)
        parts = Parts(study, size, seed, runs.resolve(), device)
        models = {name: parts.model(name) for name in study.models}
        start = time.perf_counter()
        arms = answer_seed(parts, parts.folder / "answers" / study.name)
        entry = {
            **machine,
            "arms": arms,
            "models": {name: {"seconds": part.seconds, **part.facts} for name, part in models.items()},
            "tower": parts.tower().facts,
            "answering_seconds": time.perf_counter() - start,
        }
        add_seed(path, definition, seed, entry)
    return path


def _machine(size: Size, device: str) -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name(0) if device == "cuda" else None
    return {
        "hardware": {
            "cpu": cpu_name(), "cores": cores(), "threads": size.threads, "gpu": gpu, "system": platform.system(),
        },
        "versions": {"cambrian-gaze": __version__, "python": platform.python_version(), **versions(PACKAGES)},
    }  # fmt: skip


def _definition(study: Study, size: Size) -> dict[str, Any]:
    formats = max(data_format(study.bench(size, 0, model)) for model in (None, *study.models))
    return {
        "study": study.name,
        "title": study.title,
        "asks": study.asks,
        "note": study.note,
        "size": size.name,
        "command": f"cambrian-gaze study run {study.name} --size {size.name}",
        "data": {"format": formats, **size.data, **study.data},
        "tower": dict(size.tower),
        "training": {name: value for name, value in size.training.items() if name != "plugin"},
        "plugins": [plugin.to_dict() for plugin in loaded_plugins()],
        "models": {
            name: {
                **{flag: value for flag, value in study.flags(size, name).items() if flag != "plugin"},
                **{key: own[key] for key in ("start", "data") if key in own},
            }
            for name, own in study.models.items()
        },
        "arms": [
            {
                "name": arm.name, "title": arm.title, "model": arm.checkpoint, "gaze": dict(arm.gaze),
                "policy": dict(arm.policy), "blind": arm.blind, "masked": arm.name in study.masked,
                "steer": study.steered.get(arm.name), "x": study.x.get(arm.name),
            }
            for arm in study.arms
        ],
        "against": study.against,
        "lines": list(study.lines),
        "routing": list(study.routing),
        "x_label": study.x_label,
    }  # fmt: skip
