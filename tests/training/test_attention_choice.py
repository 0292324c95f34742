"""The attention backend that `auto` took is a run's own: it stands in the checkpoints, and a run goes on with it."""

import shutil
from pathlib import Path

from cambrian_gaze.attention import registry
from cambrian_gaze.attention.choice import auto, trial
from cambrian_gaze.files import CACHE_VARIABLE
from cambrian_gaze.training import run
from cambrian_gaze.training.checkpoint.checkpoint import read_marker
from cambrian_gaze.training.config import config
from tests.attention._toys import ToyClock, toys
from tests.training._runs import flags


def test_a_run_goes_on_with_the_backend_that_it_had(pages: Path, tmp_path: Path, monkeypatch) -> None:
    clock, output = ToyClock(), tmp_path / "run"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(auto, "TRIED_ON", {"cpu"})
    monkeypatch.setattr(registry, "BACKENDS", toys(clock, ["fast", "slow"]))
    monkeypatch.setattr(trial, "_median", clock.time)
    auto.forget()
    options = {"max_steps": 4, "save_steps": 2, "eval_data_path": pages, "eval_strategy": "steps", "eval_steps": 4}
    run.train(config.load(flags(pages, output, **options)))
    (name,) = read_marker(output / "checkpoint-2")["attention"]["names"].values()
    assert name == "fast" and "slow" in clock.ran
    shutil.rmtree(tmp_path / "cache")
    auto.forget()
    clock.us["fast"] = 1000.0
    clock.ran.clear()
    again = flags(pages, tmp_path / "again", resume_from_checkpoint=output / "checkpoint-2", **options)
    run.train(config.load(again))
    assert set(clock.ran) == {"fast"}, "nothing was tried, in training or evaluation"
