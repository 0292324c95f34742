"""A benchmark and a policy of one's own on the command line: `--plugin FILE.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cambrian_gaze.cli.main import main

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar

from cambrian_gaze.attention.policy.policy import Shown, VisiblePolicy, VisualTokens
from cambrian_gaze.baselines.registry import register_policy
from cambrian_gaze.evaluation.benchmarks import Benchmark, BenchmarkSource, register_benchmark
from cambrian_gaze.evaluation.benchmarks.declare import IMAGE, TEXT, both, with_picture

register_benchmark(
    Benchmark(
        name="own_toy",
        title="Own toy",
        source=BenchmarkSource("me/own", "test"),
        fields={"image": IMAGE, "question": TEXT},
        ask=lambda row, protocol: with_picture(row, row["question"]),
        target=lambda row, protocol: {"answer": ""},
        score=both(lambda answer, target: 1.0),
        rows=2,
        samples=2,
        max_new_tokens=3,
    )
)


@register_policy
@dataclass(frozen=True)
class Newest(VisiblePolicy):
    name: ClassVar[str] = "newest_of_mine"
    budget: int

    def on_text(self, tokens: VisualTokens):
        count = tokens.retained.long().sum(1, keepdim=True)
        return tokens.retained & (tokens.retained.long().cumsum(1) > count - self.budget)

    def retains(self, shown: Shown, layer: int, layers: int) -> int:
        return min(self.budget, shown.tokens)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin, and the local copy of its benchmark."""
    import datasets
    from PIL import Image

    folder = tmp_path_factory.mktemp("own")
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    (folder / "mine.py").write_text(PLUGIN)
    place = folder / "data" / "me" / "own"
    place.mkdir(parents=True)
    pictures = [Image.new("RGB", (32, 32), (120 * n, 0, 0)) for n in range(2)]
    table = datasets.Dataset.from_dict({"image": pictures, "question": ["What?", "Where?"]})
    table.to_parquet(place / "test-00000-of-00001.parquet")
    return folder


def evaluate(*arguments: str | Path) -> int:
    return main(["eval", *map(str, arguments)])


def test_a_plugin_is_run_scored_and_examined(
    model_dir: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, plugin = tmp_path / "run", own / "mine.py"
    source = ["--model", model_dir, "--data_root", own / "data", "--tasks", "own_toy", "--output", output]
    assert evaluate("run", *source) == 1
    assert "unknown benchmark 'own_toy'" in capsys.readouterr().err
    assert evaluate("run", "--plugin", plugin, *source, "--policy", "newest_of_mine", "budget=8") == 0
    (scores,) = json.loads((output / "scores.json").read_text()).values()
    assert scores["value"] == 100.0 and scores["status"] == "complete"
    assert scores["attended"]["visual"] == 8, "counted, and held against what the policy promises"
    assert evaluate("doctor", "--plugin", plugin, "--tasks", "own_toy", "--data_root", own / "data") == 0
    before = (output / "scores.json").read_bytes()
    (output / "scores.json").unlink()
    command = [sys.executable, "-m", "cambrian_gaze.cli.main", "eval", "score", str(output)]
    alone = subprocess.run(command, capture_output=True, text=True)
    assert alone.returncode == 1 and "'own_toy'" in alone.stderr and "--plugin" in alone.stderr
    assert subprocess.run([*command, "--plugin", str(plugin)]).returncode == 0
    assert (output / "scores.json").read_bytes() == before


@pytest.fixture(autouse=True)
def _as_before():
    from cambrian_gaze.baselines.registry import POLICIES
    from cambrian_gaze.evaluation.benchmarks import BENCHMARKS

    kept = [(registry, dict(registry)) for registry in (BENCHMARKS, POLICIES)]
    yield
    for registry, before in kept:
        registry.clear()
        registry.update(before)
