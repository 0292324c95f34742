"""Benchmarks answered while a model trains: when, which metric leads, and that the training is the same with them.

The benchmarks here are scripted; `tests/cli/test_train.py` answers real ones.
"""

import contextlib
import dataclasses
import json
import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers import SchedulerType

from cambrian_gaze.training.config import config
from cambrian_gaze.training.config.config import ConfigError, RunConfig
from cambrian_gaze.training.launch.requests import StopRequest
from cambrian_gaze.training.metrics.log import read_log
from cambrian_gaze.training.metrics.samples import eval_mode
from cambrian_gaze.training.metrics.task_scores import TaskScores
from cambrian_gaze.training.parts import RunOptions, task_scores
from cambrian_gaze.training.run import main, prepare, train
from cambrian_gaze.training.trainer import CambrianTrainer
from tests.training._ranks import launch
from tests.training._runs import ROOT, flags, run, write_data


@dataclasses.dataclass
class Scripted:
    """Scores by step; a model in training would not survive what it does to the generators unnoticed."""

    by_step: dict[int, float]
    names: tuple[str, ...] = ("mme",)
    problems: list[str] = dataclasses.field(default_factory=list)
    asked: list[int] = dataclasses.field(default_factory=list)
    unanswerable: list[str] = dataclasses.field(default_factory=list)
    questions = 6

    def try_out(self, model: Any, processor: Any) -> list[str]:
        assert processor.tokenizer is not None
        return self.unanswerable

    def scores(self, model: Any, processor: Any, step: int, beat: Any, stop: Any = bool) -> dict[str, float]:
        assert not any(module.training for module in model.modules()) and not torch.is_grad_enabled()
        torch.rand(7), np.random.rand(7), random.random()
        beat("a batch of mme")
        self.asked.append(step)
        if dist.is_initialized():
            dist.barrier()
        score = self.by_step.get(step, 0.0)
        return {f"{name}_{figure}": score for name in self.names for figure in ("score", "low", "high")}

    def __call__(self, run: RunConfig) -> "Scripted":
        return self


def times(tmp_path: Path, **changes: object) -> tuple[str, float | None]:
    loaded = config.load(flags(tmp_path / "data.jsonl", tmp_path / "run", max_steps=None, **changes))
    return loaded.training.eval_strategy.value, loaded.training.eval_steps


def test_without_a_word_benchmarks_are_answered_at_the_checkpoints(tmp_path: Path) -> None:
    data = tmp_path / "held_out.jsonl"
    assert times(tmp_path, eval_tasks="mme") == ("steps", 3), "save_steps of these runs"
    assert times(tmp_path, eval_tasks="mme", save_steps=None) == ("steps", 500)
    assert times(tmp_path, eval_tasks="mme", eval_steps=2) == ("steps", 2)
    assert times(tmp_path, eval_tasks="mme", eval_tasks_steps=4) == ("steps", 4)
    assert times(tmp_path, eval_tasks="mme", eval_strategy="steps") == ("steps", 3), "not logging_steps, 1 here"
    assert times(tmp_path, eval_tasks="mme", save_strategy="epoch", save_steps=None)[0] == "epoch"
    assert times(tmp_path, eval_tasks="mme", eval_data_path=data) == ("steps", 3), "the loss beside them"
    assert times(tmp_path, eval_data_path=data)[0] == "epoch"
    assert times(tmp_path, eval_tasks="mme", eval_data_path=data, eval_tasks_steps=4) == ("steps", 4)
    assert times(tmp_path, eval_tasks="mme", eval_data_path=data, eval_steps=2, eval_tasks_steps=4) == ("steps", 2)


def test_names_may_be_joined_by_commas(tmp_path: Path) -> None:
    argv = flags(tmp_path / "data.jsonl", tmp_path / "run")
    assert config.load([*argv, "--eval_tasks", "mme,gqa", "mmvp"]).tasks.eval_tasks == ["mme", "gqa", "mmvp"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"eval_strategy": "no"}, "eval_strategy is no, so nothing would be answered"),
        ({"eval_strategy": "epoch", "eval_tasks_steps": 4}, "eval_tasks_steps 4 needs eval_strategy steps, not epoch"),
        ({"eval_steps": 3, "eval_tasks_steps": 4}, "eval_tasks_steps 4 must be a multiple of eval_steps.*now 3"),
        ({"eval_steps": 0.5, "eval_tasks_steps": 4}, "must be a multiple of eval_steps, a number of steps, now 0.5"),
        ({"eval_tasks_steps": 0}, "a number of steps from 1"),
        ({"eval_tasks_limit": -1}, "must be 0 .all. or more"),
        ({"eval_tasks": None, "eval_tasks_limit": 5, "eval_tasks_steps": 2},
         "eval_tasks_steps and eval_tasks_limit: without effect"),
        ({"eval_tasks": None, "eval_tasks_data_root": "x"}, "eval_tasks_data_root: without effect"),
        ({"eval_tasks": None, "eval_strategy": "steps"}, "eval_strategy steps needs eval_data_path or eval_tasks"),
    ],
)  # fmt: skip
def test_times_that_contradict_are_refused(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config.load(flags(tmp_path / "data.jsonl", tmp_path / "run", **({"eval_tasks": "mme"} | changes)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"load_best_model_at_end": True}, r"loss \(the default\) is not measured here; measured are mme_score"),
        ({"load_best_model_at_end": True, "metric_for_best_model": "mme_scor"}, "mme_scor is not measured"),
        ({"load_best_model_at_end": True, "metric_for_best_model": "gqa_score"}, "gqa_score is not measured here"),
        ({"load_best_model_at_end": True, "metric_for_best_model": "mme_score", "eval_steps": 1, "eval_tasks_steps": 2},
         "set save_steps, now 3, to a multiple"),
        ({"save_strategy": "best", "metric_for_best_model": "accuracy"}, "metric_for_best_model accuracy is not"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "mme_score", "warmup_ratio": None,
          "eval_steps": 1, "eval_tasks_steps": 2}, "needs mme_score at every evaluation"),
    ],
)  # fmt: skip
def test_a_metric_that_nothing_measures_is_refused(pages: Path, tmp_path: Path, changes: dict, said: str) -> None:
    loaded = config.load(flags(pages, tmp_path / "run", **({"eval_tasks": "mme"} | changes)))
    with pytest.raises(ValueError, match=said):
        prepare(loaded, benchmarks=Scripted({}))


def test_a_metric_is_checked_without_benchmarks_too(pages: Path, tmp_path: Path) -> None:
    follows = {"eval_data_path": pages, "eval_steps": 3, "load_best_model_at_end": True}
    loaded = config.load(flags(pages, tmp_path / "run", metric_for_best_model="mme_score", **follows))
    with pytest.raises(ValueError, match=r"mme_score is not measured here; measured are loss"):
        prepare(loaded)
    prepare(config.load(flags(pages, tmp_path / "run", **follows)))


def test_all_that_is_wrong_is_said_before_the_model_is_built(
    pages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cambrian_gaze.training.run.build_model", lambda *parts: pytest.fail("a model was built"))
    options = {"eval_tasks": "mme,gqa", "load_best_model_at_end": True, "metric_for_best_model": "gqa_scores"}
    argv = flags(pages, tmp_path / "run", **options)
    assert main(argv, benchmarks=Scripted({}, problems=["mme: damaged", "gqa: not there"])) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ["cambrian-gaze train: eval_tasks: mme: damaged", "eval_tasks: gqa: not there"]
    assert len(said) == 3 and "gqa_scores is not measured" in said[2]
    assert main(argv) == 2
    assert "hands it no benchmarks; start it by `cambrian-gaze train`" in capsys.readouterr().err


def test_what_this_model_cannot_be_asked_is_said_before_the_first_step(pages: Path, tmp_path: Path, capsys) -> None:
    argv = flags(pages, tmp_path / "run", eval_tasks="mme")
    assert main(argv, benchmarks=Scripted({}, unanswerable=["mme: too long"])) == 2
    assert capsys.readouterr().err == "cambrian-gaze train: eval_tasks: mme: too long\n"
    assert not read_log(tmp_path / "run")


def test_the_best_model_is_the_one_with_the_best_score(pages: Path, tmp_path: Path) -> None:
    scripted = Scripted({2: 10.0, 4: 30.0, 6: 20.0, 8: 25.0})
    options = {"load_best_model_at_end": True, "metric_for_best_model": "mme_score", "eval_tasks": "mme"}
    options |= {"save_steps": 2, "save_total_limit": 2}
    folder = tmp_path / "run"
    trainer = train(config.load(flags(pages, folder, **options)), benchmarks=scripted)
    assert scripted.asked == [2, 4, 6, 8]
    assert trainer.state.best_metric == 30.0
    assert trainer.state.best_model_checkpoint == str(folder / "checkpoint-4")
    final, best = load_file(folder / "model.safetensors"), load_file(folder / "checkpoint-4" / "model.safetensors")
    assert all(torch.equal(final[name], best[name]) for name in best)
    logged = [(line["step"], line["eval_mme_score"]) for line in trainer.state.log_history if "eval_mme_low" in line]
    assert logged == [(2, 10.0), (4, 30.0), (6, 20.0), (8, 25.0)]
    assert [line["eval_mme_high"] for line in read_log(folder, "eval")] == [10.0, 30.0, 20.0, 25.0]
    assert "eval_loss" not in read_log(folder, "eval")[0]
    assert "Score: mme" in (folder / "summary.html").read_text()


def test_the_loss_may_be_measured_more_often(pages: Path, tmp_path: Path) -> None:
    """Evaluations without scores leave the best one as it is; the run's end has scores in any case."""
    scripted = Scripted({4: 30.0, 8: 20.0, 10: 40.0})
    options = {"eval_data_path": pages, "eval_steps": 2, "eval_tasks_steps": 4, "max_steps": 10, "save_steps": 4}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_mme_score", "eval_tasks": "mme"}
    trainer = train(config.load(flags(pages, tmp_path / "run", **options)), benchmarks=scripted)
    assert scripted.asked == [4, 8, 10] and trainer.state.best_global_step == 10
    lines = read_log(tmp_path / "run", "eval")
    assert [line["step"] for line in lines if "eval_loss" in line] == [2, 4, 6, 8, 10]
    assert [line["step"] for line in lines if "eval_mme_score" in line] == [4, 8, 10]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder)]


def test_the_training_is_the_same_with_them_and_resumes(pages: Path, tmp_path: Path) -> None:
    """Random K and noise on the embeddings draw from the generators; the schedule is Progressive TopK's."""
    options = {"neftune_noise_alpha": 5.0, "gradient_checkpointing": True}
    train(config.load(flags(pages, tmp_path / "without", **options)))
    options |= {"eval_tasks": "mme", "eval_steps": 1, "eval_on_start": True}
    train(config.load(flags(pages, tmp_path / "with", **options)), benchmarks=Scripted({}))
    one, other = (read_log(tmp_path / name) for name in ("without", "with"))
    for key in ("loss", "grad_norm", "keep_ratio", "k", "learning_rate"):
        assert [line[key] for line in one] == [line[key] for line in other], key
    best = {"load_best_model_at_end": True, "metric_for_best_model": "mme_score"}
    argv = flags(pages, tmp_path / "parts", **options | best)

    class Stop(Scripted):
        def scores(self, model: Any, processor: Any, step: int, beat: Any, stop: Any = bool) -> dict[str, float]:
            if step == 5:
                raise RuntimeError("stopped")
            return super().scores(model, processor, step, beat, stop)

    with pytest.raises(RuntimeError, match="stopped"):
        train(config.load(argv), benchmarks=Stop({3: 50.0}))
    again = Scripted({4: 40.0, 8: 45.0})
    trainer = train(config.load(argv), benchmarks=again)
    assert losses(tmp_path / "parts") == losses(tmp_path / "with")
    assert again.asked == [3, 4, 5, 6, 7, 8], "eval_on_start: where it goes on"
    assert trainer.state.best_metric == 50.0, "of the attempt before"
    assert trainer.state.best_model_checkpoint == str(tmp_path / "parts" / "checkpoint-3")


def test_a_best_figure_is_not_compared_with_another_kind(pages: Path, tmp_path: Path) -> None:
    options = {"load_best_model_at_end": True, "eval_tasks": "mme", "metric_for_best_model": "mme_score"}
    train(config.load(flags(pages, tmp_path / "run", **options | {"max_steps": 3})), benchmarks=Scripted({3: 50.0}))
    for key, value in {"eval_tasks_limit": 7, "metric_for_best_model": "mme_low"}.items():
        with pytest.raises(ValueError, match=f"other values, which it keeps: {key}: .* then, {value} now"):
            prepare(config.load(flags(pages, tmp_path / "run", **options | {key: value})), benchmarks=Scripted({}))
    unled = {"eval_tasks": "mme", "eval_tasks_limit": 7}
    prepare(config.load(flags(pages, tmp_path / "run", **unled)), benchmarks=Scripted({}))


def test_the_generators_are_as_they_were() -> None:
    model = SmallModel().train()
    model.frozen.eval()
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    with eval_mode(model):
        assert not model.training
        Scripted({}).scores(model, None, 1, lambda what: None)
    after = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert model.training and not model.frozen.training


class SmallModel(torch.nn.Module):
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.frozen = torch.nn.Linear(1, 1)


def test_it_is_asked_with_the_weights_that_an_optimizer_evaluates() -> None:
    """Schedule-free optimizers train other weights than those that they end with."""
    order: list[str] = []

    class Benchmarks(Scripted):
        def scores(self, *what: Any, stop: Any) -> dict[str, float]:
            order.append("asked")
            return {} if stop() else {"mme_score": 1.0}

    request = StopRequest()
    args = SimpleNamespace(device=torch.device("cpu"), lr_scheduler_type=SchedulerType.COSINE)

    def evaluate(every: int | None = None) -> tuple[dict[str, float], TaskScores]:
        scores = task_scores(RunOptions(benchmarks=Benchmarks({}), benchmark_steps=every, request=request), args, print)
        trainer = SimpleNamespace(
            task_scores=scores,
            model=SmallModel(),
            processing_class=None,
            optimizer=SimpleNamespace(eval=lambda: order.append("weights")),
            state=SimpleNamespace(global_step=2, max_steps=8),
            compute_loss_context_manager=contextlib.nullcontext,
        )
        return CambrianTrainer.evaluation_loop(trainer, SimpleNamespace(dataset=[])).metrics, scores

    assert evaluate()[0] == {"eval_mme_score": 1.0}
    assert order == ["weights", "asked"]
    assert evaluate(every=4)[0] == {} and order == ["weights", "asked"]
    request.status = 85
    found, asked = evaluate()
    assert found == {} and asked.leaves_open("mme_score", {})
    args.lr_scheduler_type = SchedulerType.REDUCE_ON_PLATEAU
    assert evaluate()[0], "the schedule needs the score"


def test_a_request_to_stop_waits_for_one_benchmark(pages: Path, tmp_path: Path) -> None:
    """It reaches the run while it answers; the checkpoint is written after the next step, and the best one stays."""

    class Two(Scripted):
        def scores(self, model: Any, processor: Any, step: int, beat: Any, stop: Any) -> dict[str, float]:
            found = super().scores(model, processor, step, beat, stop)
            if step == 4:
                os.kill(os.getpid(), signal.SIGUSR1)
            return {} if stop() else found

    options = {"load_best_model_at_end": True, "metric_for_best_model": "mme_score", "eval_tasks": "mme"}
    loaded = config.load(flags(pages, tmp_path / "run", **options, save_steps=2))
    scripted = Two({2: 10.0, 4: 30.0})
    with StopRequest().listening() as request:
        trainer = train(loaded, request=request, benchmarks=scripted)
    assert request.granted == 85 and scripted.asked == [2, 4]
    assert trainer.state.global_step == 5 and trainer.state.best_metric == 10.0


def scripted_run(argv: list[str]) -> int:
    return main(argv, benchmarks=Scripted({2: 30.0, 4: 20.0}))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["1", "2"])
def test_two_ranks_follow_one_score(tmp_path: Path, stage: str) -> None:
    data = write_data(tmp_path / "data", list("iitiiiit"))
    options = {"deepspeed": str(ROOT / "train" / "deepspeed" / f"zero{stage}.json"), "max_steps": 4, "save_steps": 2}
    assert launch(2, run, flags(data, tmp_path / "without", **options)) == [0, 0]
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "mme_score", "eval_tasks": "mme"}
    assert launch(2, scripted_run, flags(data, tmp_path / "with", **options)) == [0, 0]
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    state = json.loads((tmp_path / "with" / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]).name == "checkpoint-2"
