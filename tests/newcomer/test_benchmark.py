"""A benchmark of one's own: declared and registered, it is asked, journalled and scored like those of the package."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.evaluation.benchmarks import BENCHMARKS, Benchmark, BenchmarkSource, register_benchmark
from cambrian_gaze.evaluation.benchmarks.declare import IMAGE, TEXT, both, with_picture
from cambrian_gaze.evaluation.results import read_results, write_scores
from tests.evaluation._runs import evaluate


def right(answer, target):
    """A toy rule: half of what is asked for is half right; an empty answer is undecided."""
    return target["share"] if answer.strip() else None


COLOURS = Benchmark(
    name="colours",
    title="Colours",
    source=BenchmarkSource("me/colours", "test"),
    fields={"image": IMAGE, "question": TEXT, "answer": TEXT},
    ask=lambda row, protocol: with_picture(row, row["question"]),
    target=lambda row, protocol: {"answer": row["answer"], "share": 1.0 if row["answer"] == "red" else 0.5},
    score=both(right),
    rows=2,
    samples=2,
    max_new_tokens=6,
)


@pytest.fixture
def toy():
    yield register_benchmark(COLOURS)
    del BENCHMARKS["colours"]


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local copy of its rows, as `hf download` would leave it."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    rows = {"image": pictures, "question": ["Which colour?"] * 2, "answer": ["red", "blue"]}
    folder = tmp_path / "data" / "me" / "colours"
    folder.mkdir(parents=True)
    datasets.Dataset.from_dict(rows).to_parquet(folder / "test-00000-of-00001.parquet")
    return tmp_path / "data"


def test_a_model_is_scored_on_it(toy, data_root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CambrianGazeForConditionalGeneration.from_preset("tiny").eval()
    tiny = model, CambrianGazeProcessor.from_preset("tiny")
    assert evaluate(tiny, data_root, tmp_path / "run", ["colours"]) == {}
    results = read_results(tmp_path / "run")
    assert {result.status for result in results.values()} == {"complete"}
    answers = (tmp_path / "run" / "answers" / "colours.cambrian.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in answers] == ["<image>\nWhich colour?"] * 2
    scores = json.loads(write_scores(tmp_path / "run", results).read_text())
    assert scores["colours.cambrian"]["value"] == scores["colours.official"]["value"] == 75.0
