"""What a step keeps: the schedule, K at once, drawn budgets; and runs that are dense without looking so."""

import math
from pathlib import Path

import pytest

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.training import run
from cambrian_gaze.training.config import config
from cambrian_gaze.training.gaze_schedule import dense_because, keep_ratio
from cambrian_gaze.training.metrics.log import read_log
from tests.training._runs import flags


def gaze(random_k: bool = False, **budget: object) -> GazeConfig:
    schedule = {"random_k": random_k, "final_keep_ratio": 1 / 8}
    return GazeConfig.from_dict({"image": {"region_size": [1, 1, 1], **(budget or {"top_k": 2})}, "schedule": schedule})


def test_random_k_draws_with_and_without_the_progressive_start() -> None:
    drawn = [keep_ratio(gaze(True), 2, False, step, 100) for step in range(100)]
    assert len(set(drawn)) == 100 and 1 / 8 <= min(drawn) < 0.2 and 0.8 < max(drawn) <= 1
    progressive = [keep_ratio(gaze(True), 2, True, step, 100) for step in range(100)]
    assert progressive[:10] == [1.0] * 10 and progressive[70:] == drawn[70:]
    assert {keep_ratio(gaze(), 2, False, step, 100) for step in range(100)} == {0.0}
    assert {keep_ratio(gaze(True), 1, False, step, 100) for step in range(100)} == {1.0}


def test_the_log_has_the_drawn_k(pages: Path, tmp_path: Path) -> None:
    options = {"max_steps": 6, "save_strategy": "no", "progressive": False, "random_k": True}
    run.train(config.load(flags(pages, tmp_path, **options)))
    lines = read_log(tmp_path)
    assert [line["k"] for line in lines] == [max(2, math.ceil(line["keep_ratio"] * 16)) for line in lines]
    assert len({line["k"] for line in lines}) > 2


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ({"top_k": 15}, None),
        ({"top_k": 16}, "top_k=16 keeps all 16 regions of an image"),
        ({"top_k": 99}, "top_k=99 keeps all 16 regions of an image"),
        ({"top_k": 160}, "and of a video of 4 frames"),
        ({"kv_budget": 15}, None),
        ({"kv_budget": 16}, "kv_budget=16 keeps all 16 regions"),
        ({"keep_ratio": 1.0}, None),
        ({"keep_ratio": 0.5}, None),
    ],
)
def test_a_budget_that_covers_all_is_dense(budget: dict, says: str | None) -> None:
    found = dense_because(gaze(**budget), (4, 4), 4, progressive_asked=False)
    assert (found is None) if says is None else (says in found)


def test_random_k_of_a_dense_budget_is_said() -> None:
    assert "random_k and progressive change nothing" in dense_because(gaze(True, keep_ratio=1.0), (4, 4), 4, False)


def test_a_run_says_that_it_is_dense(pages: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run.prepare(config.load(flags(pages, tmp_path, top_k=16)))
    assert "this run is dense there" in caplog.text
