"""A study that is killed and started again ends with the same results as one that was not."""

import json

import pytest

from cambrian_gaze.cli.study import main
from cambrian_gaze.data.records.records import read_records
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gazebench.spec import GazeBenchSpec
from cambrian_gaze.studies import answers, tower
from cambrian_gaze.studies.page import draw_page, table
from cambrian_gaze.studies.parts import Parts
from cambrian_gaze.studies.results import read_results
from cambrian_gaze.studies.run import run_study
from cambrian_gaze.studies.steering import steer
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

    def answer(arm, *rest, **options):
        arms.append(arm.name)
        if len(arms) == 3:
            raise KeyboardInterrupt
        return original(arm, *rest, **options)

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


def test_seeds_may_come_one_by_one(quick, tmp_path):
    study, size = read_study(study_file(tmp_path)), read_size("smoke")
    trainings = quick()
    whole = run(tmp_path / "whole", tmp_path / "small.yaml")
    for seed in (1, 0):
        path = run_study(study, size, tmp_path / "runs", tmp_path / "results", [seed])
    assert facts(path) == facts(whole) and list(read_results(path)["seeds"]) == ["0", "1"]
    values, before = json.loads((tmp_path / "small.yaml").read_text()), trainings.calls
    values["models"]["gaze"]["num_context_tokens"] = 3
    (tmp_path / "small.yaml").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="small-smoke.json holds seeds of another small: models differ"):
        run_study(read_study(tmp_path / "small.yaml"), size, tmp_path / "runs", tmp_path / "results", [2])
    assert trainings.calls == before, "said before anything is trained"


def test_a_model_learns_from_pages_of_its_own(quick, tmp_path):
    path = study_file(tmp_path)
    values = json.loads(path.read_text())
    values["models"]["dense"]["data"] = {"families": ["read"], "train": 3}
    path.write_text(json.dumps(values))
    trainings = quick()
    written = read_results(run_study(read_study(path), read_size("smoke"), tmp_path / "runs", tmp_path, seeds=[1]))
    asked = [[json.loads(line)["family"] for line in data.read_text().splitlines()] for data in trainings.data]
    assert asked[0] == ["read"] * 3 and "hop" in asked[1] and len(asked[1]) == 4
    assert written["models"]["dense"]["data"] == {"families": ["read"], "train": 3}
    assert set(written["seeds"]["1"]["arms"]["dense"]["right"]) == {"hop", "read"}, "questions are the study's"


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


def test_regions_are_hidden_and_choices_counted(quick, tmp_path):
    quick()
    path = run(tmp_path, study_file(tmp_path))
    results = read_results(path)
    assert [(arm["name"], arm["steer"]) for arm in results["arms"] if arm["steer"]] == [
        ("hidden", "hide_needed"), ("other", "hide_other"), ("left", "force_needed"),
    ]  # fmt: skip
    for seed in results["seeds"].values():
        arms = seed["arms"]
        assert "places" not in arms["gaze"] and "recall" not in arms["dense"]
        assert arms["hidden"]["steered"] == arms["other"]["steered"] == arms["left"]["steered"] == 6
        assert arms["hidden"]["places"] == arms["other"]["places"]
        assert set(arms["hidden"]["places"]["hop"]) <= {0, 1} and len(arms["hidden"]["places"]["read"]) == 3
        assert arms["left"]["places"] == {"hop": [None] * 3, "read": [None] * 3}
        assert [arms[name]["visible"] for name in ("hidden", "other", "left")] == [8, 8, 8]  # two regions of four left
        assert arms["gaze"]["unions"]["head"] == 2 and arms["gaze"]["unions"]["entries"] == 4
        assert arms["gaze"]["unions"]["regions"] == 16 and arms["gaze"]["shifts"]["pairs"] > 0
    page = tmp_path / "results.md"
    page.write_text("<!-- measured -->\n<!-- /measured -->\n")
    names = {one.name for one in draw_page(page)}
    assert {"small-smoke-hop-hidden-gaze.svg", "small-smoke-read-hidden-gaze.svg"} <= names
    assert "| another hidden |" in page.read_text()


def test_hidden_regions_are_not_chosen(quick, tmp_path):
    quick()
    parts = Parts(read_study(study_file(tmp_path)), read_size("smoke"), 0, tmp_path, "cpu")
    answers.answer_seed(parts, tmp_path / "answers")
    records = {
        record.id: record
        for family in ("hop", "read")
        for record in read_records(parts.data().folder / family / "test.jsonl")
    }
    hidden, free = set(), set()
    for name, found in (("hidden", hidden), ("gaze", free)):
        for line in map(json.loads, (tmp_path / "answers" / f"{name}.jsonl").read_text().splitlines()):
            (region,) = steer(records[line["id"]], "hide_needed").hidden
            found.add(region in {r for step in line["regions"] for layer in step for head in layer for r in head})
    assert hidden == {False} and True in free


def test_other_regions_than_the_datas_are_not_judged(quick, tmp_path):
    config = GazeConfig()
    spec = GazeBenchSpec(regions=(4, 4))
    sized = {size: config.override(image={"region_size": size}) for size in ((1, 2, 2), (1, 4, 4), (1, 1, 4))}
    known = [size for size, one in sized.items() if answers.places_known(one, (8, 8), spec)]
    assert known == [(1, 2, 2)]
    assert answers.places_known(sized[1, 4, 4], (8, 8), GazeBenchSpec(regions=(2, 2)))
    quick()
    values = json.loads(study_file(tmp_path).read_text())
    values["data"]["regions"] = [2, 2]
    (tmp_path / "small.yaml").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="leave region_size"):
        run(tmp_path, tmp_path / "small.yaml")


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
