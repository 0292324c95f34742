"""A finished run stays as it is, and a run that goes on says what is another value now."""

import json
from pathlib import Path

import pytest

from cambrian_gaze.training import run
from cambrian_gaze.training.checkpoint.continuation import FIXED, PLACES, finished_text
from cambrian_gaze.training.config import config
from cambrian_gaze.training.metrics.log import read_log
from tests.training._runs import flags, write_data

SHORT = {"max_steps": 2, "save_steps": 2, "random_k": None}


def train(data: Path, output: Path, **changes: object) -> object:
    return run.train(config.load(flags(data, output, **{**SHORT, **changes})))


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.fixture(scope="module")
def finished(pages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(pages, folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "listed"),
    [
        ({"learning_rate": 0.5}, ["learning_rate: 0.01 then, 0.5 now"]),
        ({"top_k": 4, "model_overrides": None}, ["top_k: not given then, 4 now", "model_overrides"]),
        ({"model_name_or_path": "elsewhere", "preset": None}, ["model_name_or_path", "preset: tiny then"]),
        ({"max_steps": 1}, ["max_steps: 2 then, 1 now"]),
        ({"seed": 7, "weight_decay": 0.3}, ["seed: 42 then, 7 now", "weight_decay"]),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_another_experiment_in_its_place_is_refused(pages: Path, finished: Path, changes: dict, listed: list) -> None:
    before = stamps(finished)
    with pytest.raises(ValueError) as error:
        train(pages, finished, **changes)
    for part in ("finished; nothing was trained", *listed, "another output_dir", "--auto_resume false"):
        assert part in str(error.value)
    assert stamps(finished) == before


def test_other_data_in_its_place_are_refused_and_the_same_elsewhere_are_not(
    pages: Path, finished: Path, tmp_path: Path
) -> None:
    before = stamps(finished)
    with pytest.raises(ValueError, match="data_path: "):
        train(write_data(tmp_path / "other", list("itit")), finished)
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "train.jsonl"
    moved.write_bytes(pages.read_bytes())
    text = finished_text(config.load(flags(moved, finished, **SHORT, image_folder=pages.parent)))
    assert "finished; nothing was trained (its 2 steps are done)" in text
    assert stamps(finished) == before


def test_what_changes_nothing_about_it_is_no_other_experiment(pages: Path, finished: Path) -> None:
    before = stamps(finished)
    assert train(pages, finished, logging_steps=5, save_steps=1, dataloader_num_workers=1, report_to="none") is None
    assert stamps(finished) == before


def test_it_is_finished_without_checkpoints_too(pages: Path, tmp_path: Path) -> None:
    train(pages, tmp_path / "run", save_strategy="no")
    before = stamps(tmp_path / "run")
    assert train(pages, tmp_path / "run", save_strategy="no") is None
    assert stamps(tmp_path / "run") == before
    assert train(pages, tmp_path / "run", save_strategy="no", auto_resume=False).state.global_step == 2


def test_a_run_of_an_earlier_version_is_finished_too(pages: Path, tmp_path: Path) -> None:
    train(pages, tmp_path / "run")
    path = tmp_path / "run" / "run_config.json"
    said = json.loads(path.read_text())
    del said["finished"]
    path.write_text(json.dumps(said))
    with pytest.raises(ValueError, match="finished; nothing was trained"):
        train(pages, tmp_path / "run", learning_rate=0.5)


def test_a_longer_one_goes_on(pages: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(pages, tmp_path / "run")
    assert train(pages, tmp_path / "run", max_steps=4).state.global_step == 4
    assert "another value is in force: max_steps: 2 then, 4 now" in caplog.text
    assert [line["step"] for line in read_log(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_learning_rate_that_a_checkpoint_would_not_take_is_refused(
    pages: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(pages, tmp_path / "run", max_steps=4)
    path = tmp_path / "run" / "run_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "finished": None}))
    before = stamps(tmp_path / "run")
    with pytest.raises(ValueError) as error:
        train(pages, tmp_path / "run", max_steps=6, learning_rate=0.5)
    for part in ("checkpoint-4 was trained with other values", "learning_rate: 0.01 then, 0.5 now", "output_dir"):
        assert part in str(error.value)
    after = stamps(tmp_path / "run")
    assert {p: t for p, t in after.items() if p.is_file() and p.name != ".run.lock"} == {
        p: t for p, t in before.items() if p.is_file() and p.name != ".run.lock"
    }
    assert train(pages, tmp_path / "run", max_steps=6, logging_steps=2).state.global_step == 6
    assert "logging_steps: 1 then, 2 now" in caplog.text


def test_fixed_keys_are_keys() -> None:
    assert FIXED | PLACES <= set(config.known_keys())


def test_the_command_says_it_in_one_line(
    pages: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for changes, status, said in (
        ({}, 0, "finished; nothing was trained"),
        ({"learning_rate": 3}, 2, "finished; nothing was trained"),
        ({"output_dir": tmp_path / "a", "image_folder": tmp_path / "none"}, 2, "none does not exist (for "),
        ({"output_dir": tmp_path / "b", "data_path": tmp_path / "none.jsonl"}, 2, "none.jsonl"),
        ({"output_dir": tmp_path / "c", "model_name_or_path": tmp_path / "none", "preset": None}, 2, "none"),
    ):
        assert run.main(flags(pages, finished, **{**SHORT, **changes})) == status
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cambrian-gaze train: ")]
        assert len(lines) == 1 and said in lines[0], lines
