"""A tiny model with random weights, and a few records with pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cambrian_gaze.data.records.records import read_records
from tests.evaluation._data_root import own_data_root
from tests.evaluation._runs import evaluate


@pytest.fixture(scope="session")
def tiny():
    from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor

    torch.manual_seed(0)
    model = CambrianGazeForConditionalGeneration.from_preset("tiny").eval()
    return model, CambrianGazeProcessor.from_preset("tiny")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Three questions with one picture each, one with two pictures, one with none; the last has no answer."""
    folder = tmp_path_factory.mktemp("records")
    generator = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    answer = {"from": "gpt", "value": "Read B3 7"}
    rows = [
        {"id": str(n), "image": f"{n}.png", "conversations": [{"from": "human", "value": "<image>\nRead B3"}, answer]}
        for n in range(3)
    ]
    two = [{"from": "human", "value": "<image> and <image>: which is longer?"}, answer]
    rows.append({"id": "3", "image": ["3.png", "4.png"], "conversations": two})
    rows.append({"id": "4", "conversations": [{"from": "human", "value": "Say something"}]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def records(folder):
    return list(read_records(folder / "rows.jsonl"))


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small local copies of all benchmarks; what `datasets` caches of them goes with them."""
    return own_data_root(tmp_path_factory)


@pytest.fixture(scope="session")
def whole_run(tiny, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's answers to all benchmarks under both protocols, at K=2."""
    output = tmp_path_factory.mktemp("whole_run")
    assert evaluate(tiny, data_root, output, ["image", "video", "video_extra", "gazebench"], gaze={"top_k": 2}) == {}
    return output
