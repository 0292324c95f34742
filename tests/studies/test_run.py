"""A study that is killed and started again ends with the same results as one that was not."""

import json

import pytest

from cambrian_gaze.cli.study import main
from cambrian_gaze.studies import answers, tower
from cambrian_gaze.studies.page import table
from cambrian_gaze.studies.run import read_results, run_study
from cambrian_gaze.studies.study import known_studies, read_size, read_study
from tests.studies._stand_in import Trainings, study_file


@pytest.fixture
def quick(monkeypatch):
    """Trainings that take no time, towers of a few pages."""
    monkeypatch.setattr(tower, "PAGES", 40)
    monkeypatch.setattr(tower, "HELD_OUT", 8)

    def trainings(stop_at=None):
        stand_in = Trainings(stop_at)
        monkeypatch.setattr("cambrian_gaze.quickstart.train.run_training", stand_in)
        return stand_in

    return trainings


def run(folder, study):
    return run_study(read_study(study), read_size("smoke"), folder / "runs", folder / "results")


def facts(path):
    """Everything but times."""
    values = read_results(path)
    for seed in values["seeds"].values():
        seed.pop("answering_seconds")
        for model in seed["models"].values():
            model.pop("seconds")
        for arm in seed["arms"].values():
            arm.pop("seconds")
    return values


def test_killed_and_started_again_it_ends_with_the_same_table(quick, tmp_path, monkeypatch):
    study = study_file(tmp_path)
    quick()
    whole = run(tmp_path / "whole", study)
    counter = quick(stop_at=2)
    with pytest.raises(KeyboardInterrupt):  # in the second training of the first seed
        run(tmp_path / "killed", study)
    counter.stop_at = 4
    original, arms = answers.answer_arm, []

    def answer(arm, *rest):
        arms.append(arm.name)
        if len(arms) == 3:
            raise KeyboardInterrupt
        return original(arm, *rest)

    monkeypatch.setattr(answers, "answer_arm", answer)
    for _ in range(2):  # in the third arm, then in the last training
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", study)
    counter.stop_at = None
    again = run(tmp_path / "killed", study)
    assert counter.calls == 6  # four trainings, two of which were killed once
    assert facts(again) == facts(whole)
    assert table(read_results(again)) == table(read_results(whole))
    before = again.read_text()
    run(tmp_path / "killed", study)
    assert counter.calls == 6
    assert facts(again) == facts(whole) and json.loads(before)["seeds"].keys() == {"0", "1"}


def test_what_was_seen_is_what_was_promised(quick, tmp_path):
    quick()
    results = read_results(run(tmp_path, study_file(tmp_path)))
    for seed in results["seeds"].values():
        arms = seed["arms"]
        assert [arms[name]["visible"] for name in ("dense", "gaze", "kept", "masked")] == [64, 8, 8, 64]
        assert [arms[name]["retained"] for name in ("dense", "gaze", "kept", "masked")] == [64, 64, 8, 64]
        assert [arms[name]["context"] for name in ("dense", "gaze", "kept", "masked")] == [0, 2, 0, 0]
        assert {name: len(texts) for name, texts in arms["gaze"]["right"].items()} == {"hop": 3, "read": 3}
        assert all(len(text) == 2 for text in arms["gaze"]["right"]["hop"])


@pytest.mark.slow
@pytest.mark.parametrize("name", known_studies())
def test_every_study_runs(name, tmp_path, capsys):
    assert main(["run", name, "--size", "smoke", "--seeds", "0", "--output_dir", str(tmp_path)]) == 0
    assert f"{name}-smoke.json" in capsys.readouterr().out


def test_the_command_says_what_is_wrong(capsys, tmp_path):
    assert main(["run", "nothing", "--output_dir", str(tmp_path)]) == 1
    assert "no study 'nothing'" in capsys.readouterr().err
    assert main(["ls"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in known_studies())
