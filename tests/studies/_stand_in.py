"""Trainings that take no time: a model of the tiny preset, its weights drawn by what the training was told."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor


class Trainings:
    """Stands for `run_training`; `stop_at` names the call that is killed, counted from 1."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls = 0
        self.stop_at = stop_at
        self.data: list[Path] = []

    def __call__(self, command, environment, folder: Path):
        self.calls += 1
        flags = yaml.safe_load(Path(command[-1]).read_text())
        self.data.append(Path(flags["data_path"]))
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        torch.manual_seed(flags["seed"] * 100 + flags["num_context_tokens"])
        gaze = {"num_context_tokens": flags["num_context_tokens"], "image": {"region_size": [1, 2, 2], "top_k": 2}}
        model = CambrianGazeForConditionalGeneration.from_preset("tiny", gaze=gaze)
        with torch.no_grad():
            model.lm_head.weight.normal_()
        model.save_pretrained(folder)
        CambrianGazeProcessor.from_preset("tiny", gaze=gaze).save_pretrained(folder)
        return {"steps": 1, "loss": 1.0}


def study_file(folder: Path) -> Path:
    """Two models, seven arms."""
    values = {
        "title": "small",
        "asks": "Does it run?",
        "data": {"families": ["hop", "read"], "hops": 2, "reads": 2, "train": 4, "test": 3},
        "models": {"dense": {"num_context_tokens": 0}, "gaze": {"start": "dense", "num_context_tokens": 2}},
        "against": "dense",
        "lines": ["dense", "gaze"],
        "routing": ["dense", "gaze"],
        "arms": [
            {"name": "dense", "title": "dense", "model": "dense", "gaze": {"keep_ratio": 1.0}},
            {"name": "gaze", "title": "gaze", "model": "gaze", "gaze": {"top_k": 2}},
            {"name": "kept", "title": "kept", "model": "dense", "policy": {"name": "random", "budget": 8}},
            {"name": "masked", "title": "masked", "model": "dense", "gaze": {"keep_ratio": 1.0}, "masked": True},
            {"name": "hidden", "title": "one hidden", "model": "gaze", "gaze": {"top_k": 2}, "steer": "hide_needed"},
            {"name": "other", "title": "another hidden", "model": "gaze", "gaze": {"top_k": 2}, "steer": "hide_other"},
            {"name": "left", "title": "few left", "model": "dense", "gaze": {"top_k": 16}, "steer": "force_needed"},
        ],
    }
    path = folder / "small.yaml"
    path.write_text(json.dumps(values))
    return path
