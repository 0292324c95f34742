"""`cambrian-gaze train` with benchmarks: a tiny model on a small copy of MME."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cambrian_gaze.cli import main as cli
from cambrian_gaze.cli import train as command
from cambrian_gaze.training.metrics.log import read_log
from tests.evaluation._data_root import own_data_root
from tests.training._ranks import launch
from tests.training._runs import ROOT, flags, write_data

QUESTION = "<image>\nIs there a {}? Please answer yes or no.\nAnswer the question using a single word or phrase."


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_data_root(tmp_path_factory)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MME's questions about other pictures: there is always a cat, and never a dog."""
    data = write_data(tmp_path_factory.mktemp("questions"), list("iiiiiiii"))
    records = [json.loads(line) for line in data.read_text().splitlines()]
    for number, record in enumerate(records):
        asked, answer = (("cat", "Yes"), ("dog", "No"))[number % 2]
        record["conversations"][0]["value"] = QUESTION.format(asked)
        record["conversations"][1]["value"] = answer
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    return data


def argv(data: Path, output: Path, **changes: object) -> list[str]:
    usual = {"max_steps": 12, "save_steps": 1, "learning_rate": 3e-3, "mm_projector_lr": None, "warmup_ratio": None}
    usual |= {"lr_scheduler_type": "constant", "weight_decay": 0, "save_total_limit": 2}
    return flags(data, output, **{**usual, **changes})


def with_mme(benchmarks: Path) -> dict[str, object]:
    follow = {"load_best_model_at_end": True, "metric_for_best_model": "mme_score"}
    return {"eval_tasks": "mme", "eval_tasks_data_root": benchmarks, **follow}


def scores_of(folder: Path) -> list[float]:
    return [line["eval_mme_score"] for line in read_log(folder, "eval")]


@pytest.mark.slow
def test_a_run_follows_its_benchmark(
    benchmarks: Path, questions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The score rises as the model learns; the best model is saved, and scores the same by `cambrian-gaze eval`."""
    folder = tmp_path / "run"
    assert cli.main(["train", *argv(questions, folder, **with_mme(benchmarks))]) == 0
    scores = scores_of(folder)
    assert len(scores) == 12 and scores[0] < max(scores)
    best = scores.index(max(scores)) + 1
    assert best < 12, "else the last model is the best anyway"
    state = json.loads((folder / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]).name == f"checkpoint-{best}" and state["best_metric"] == max(scores)
    final, led = (load_file(path / "model.safetensors") for path in (folder, folder / f"checkpoint-{best}"))
    assert all(torch.equal(final[name], led[name]) for name in led)
    for line in read_log(folder, "eval"):
        assert 0 <= line["eval_mme_low"] <= line["eval_mme_score"] <= line["eval_mme_high"] <= 400
    assert sorted((folder / "eval_tasks" / "mme").iterdir())[0].name == "step-1.jsonl"

    where = ["--model", folder, "--data_root", benchmarks, "--output", tmp_path / "e", "--device", "cpu"]
    assert cli.main(["eval", "run", "--tasks", "mme", *map(str, where)]) == 0
    assert json.loads((tmp_path / "e" / "scores.json").read_text())["mme.cambrian"]["value"] == max(scores)
    capfd.readouterr()

    plain = tmp_path / "plain"
    assert cli.main(["train", *argv(questions, plain)]) == 0
    for key in ("loss", "grad_norm", "k", "keep_ratio"):
        assert [line[key] for line in read_log(plain)] == [line[key] for line in read_log(folder)], key


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["1", "2"])
def test_two_ranks_share_the_questions(benchmarks: Path, questions: Path, tmp_path: Path, stage: str) -> None:
    deepspeed = {"deepspeed": ROOT / "train" / "deepspeed" / f"zero{stage}.json", "max_steps": 6}
    folder, plain = tmp_path / "run", tmp_path / "plain"
    assert launch(2, command.main, argv(questions, folder, **deepspeed, **with_mme(benchmarks))) == [0, 0]
    assert launch(2, command.main, argv(questions, plain, **deepspeed)) == [0, 0]
    assert [line["loss"] for line in read_log(folder)] == [line["loss"] for line in read_log(plain)]
    assert len(scores_of(folder)) == 6
    answers = [json.loads(line) for line in (folder / "eval_tasks" / "mme" / "step-6.jsonl").read_text().splitlines()]
    assert len(answers) == 6 and all(isinstance(line["answer"], str) for line in answers)


def test_what_is_wrong_is_said_before_the_training(
    benchmarks: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = {"eval_tasks": "mmme,gqa,tempcompass_captioning,mme", "eval_tasks_data_root": tmp_path / "empty"}
    assert cli.main(["train", *argv(questions, tmp_path / "run", **tasks)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 4 and said[0].startswith("cambrian-gaze train: eval_tasks: unknown benchmark 'mmme'")
    assert "eval_tasks: mme: there is no local copy of" in said[-1] and not read_log(tmp_path / "run")


def test_frames_batch_and_part_are_those_of_the_run(benchmarks: Path, questions: Path, tmp_path: Path) -> None:
    from cambrian_gaze.training.config.config import load

    options = {"video_fps": 3.0, "video_max_frames": 5, "per_device_eval_batch_size": 3, "eval_tasks_limit": 2}
    run = load(argv(questions, tmp_path / "run", **options, eval_tasks="mlvu,mme", eval_tasks_data_root=benchmarks))
    parts = command.open_parts(run)
    assert parts.problems == [] and parts.names == ("mlvu", "mme") and parts.questions == 2 + 4
    assert (parts.options.sampling.video_fps, parts.options.sampling.video_max_frames) == (3.0, 5)
    assert parts.options.batch_size == 3 and parts.options.folder == tmp_path / "run" / "eval_tasks"
