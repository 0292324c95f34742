"""Runs a study: seed after seed its parts, its answers, and a file of raw results that grows with each seed.

Whatever is there already is not made again: a run that was killed goes on where it was.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze import __version__
from cambrian_gaze.files import write_text
from cambrian_gaze.machine import cores, cpu_name, versions
from cambrian_gaze.studies.answers import answer_seed
from cambrian_gaze.studies.parts import Parts
from cambrian_gaze.studies.study import Size, Study

RUNS = Path("runs", "studies")
RESULTS = Path("docs", "proof")
PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "pillow")


def run_study(
    study: Study, size: Size, runs: Path = RUNS, results: Path = RESULTS, seeds: Sequence[int] | None = None
) -> Path:
    """Run every seed and write `results/STUDY-SIZE.json`; returns its path.

    Raises: TrainingFailed where a training ends with an error.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(size.threads)
    path = results / f"{study.name}-{size.name}.json"
    wanted = size.seeds if seeds is None else tuple(seeds)
    whole: dict[str, Any] = _header(study, size, device)
    for seed in wanted:
        print(f"== {study.name}, size {size.name}, seed {seed}", flush=True)
        parts = Parts(study, size, seed, runs.resolve(), device)
        models = {name: parts.model(name) for name in study.models}
        start = time.perf_counter()
        arms = answer_seed(parts, parts.folder / "answers" / study.name)
        whole["seeds"][str(seed)] = {
            "arms": arms,
            "models": {name: {"seconds": part.seconds, **part.facts} for name, part in models.items()},
            "tower": parts.tower().facts,
            "answering_seconds": time.perf_counter() - start,
        }
        write_text(path, _written(whole))
    return path


def _header(study: Study, size: Size, device: str) -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name(0) if device == "cuda" else None
    return {
        "study": study.name,
        "title": study.title,
        "asks": study.asks,
        "note": study.note,
        "size": size.name,
        "command": f"cambrian-gaze study run {study.name} --size {size.name}",
        "hardware": {
            "cpu": cpu_name(), "cores": cores(), "threads": size.threads, "gpu": gpu, "system": platform.system(),
        },
        "versions": {"cambrian-gaze": __version__, "python": platform.python_version(), **versions(PACKAGES)},
        "data": {**size.data, **study.data},
        "tower": dict(size.tower),
        "training": dict(size.training),
        "models": {
            name: {**study.flags(size, name), **{key: own[key] for key in ("start", "data") if key in own}}
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
        "seeds": {},
    }  # fmt: skip


def _written(whole: dict[str, Any]) -> str:
    """JSON, the values of all questions of a family in one string."""
    copy = json.loads(json.dumps(whole))
    for seed in copy["seeds"].values():
        for arm in seed["arms"].values():
            arm["right"] = {family: " ".join(texts) for family, texts in arm["right"].items()}
    return json.dumps(copy, indent=1) + "\n"


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """The raw results of a study, `right` as `answer_seed` returns it. Raises ValueError for another file."""
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(values, dict) or "seeds" not in values or "against" not in values:
        raise ValueError(f"{path} holds no results of a study")
    for seed in values["seeds"].values():
        for arm in seed["arms"].values():
            arm["right"] = {family: text.split() for family, text in arm["right"].items()}
    return values
