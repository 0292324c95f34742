"""The studies that come with the project, and what is said of files that make no sense."""

import json
from pathlib import Path

import pytest
import yaml

from cambrian_gaze.baselines.registry import make_policy
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gazebench.spec import GazeBenchSpec
from cambrian_gaze.quickstart.pretrain_tower import TowerSpec
from cambrian_gaze.studies.parts import BASE
from cambrian_gaze.studies.study import SIZE_NAMES, known_studies, read_size, read_study
from cambrian_gaze.training.config.config import load
from tests.studies._stand_in import study_file


@pytest.mark.parametrize("name", known_studies())
@pytest.mark.parametrize("size", SIZE_NAMES)
def test_shipped_studies_make_sense(name, size, tmp_path):
    study, sized = read_study(name), read_size(size)
    spec, tower = study.bench(sized, 1), study.tower(sized, 1)
    assert isinstance(spec, GazeBenchSpec) and isinstance(tower, TowerSpec) and spec.seed == tower.seed == 1
    for model in study.models:
        assert study.bench(sized, 1, model).seed == 1
        flags = {key: value for key, value in study.flags(sized, model).items() if value is not None}
        cleared = [key for key, value in study.flags(sized, model).items() if value is None]
        config = tmp_path / f"{model}.yaml"
        own = {"base": str(Path(BASE).resolve()), "use_cpu": True, "bf16": False, "output_dir": str(tmp_path / model)}
        config.write_text(yaml.safe_dump(own | flags | dict.fromkeys((*cleared, "deepspeed"))))
        run = load([str(config)])
        run.gaze.apply(GazeConfig())
    for arm in study.arms:
        if arm.policy:
            options = dict(arm.policy)
            make_policy(options.pop("name"), options)
        else:
            GazeConfig().override(**arm.gaze)
    assert set(study.lines) <= {arm.name for arm in study.arms} and len(study.lines) <= 4


def test_the_cpu_size_has_five_seeds():
    assert len(read_size("cpu").seeds) >= 5 and len(read_size("gpu").seeds) >= 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"against": "nothing"}, "hold 'nothing'"),
        ({"models": {"dense": {}}}, "models that are not there: gaze"),
        ({"models": {"dense": {"start": "gaze"}, "gaze": {}}}, "dense starts from 'gaze'"),
        ({"models": {"dense": {"data": {"colour": 1}}, "gaze": {}}}, "data of dense: GazeBench has no knob colour"),
        ({"colour": 1}, "unknown colour"),
    ],
)
def test_files_that_make_no_sense_are_refused(change, message, tmp_path):
    path = study_file(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_study(path)


def test_unknown_names_are_told_with_those_that_exist():
    with pytest.raises(ValueError, match="known: .*main"):
        read_study("mian")
    with pytest.raises(ValueError, match="known: smoke, cpu, gpu"):
        read_size("huge")


@pytest.mark.parametrize("name", known_studies())
def test_steps_are_those_of_the_size(name):
    """A study that states steps of its own would train for as many in size smoke."""
    study, size = read_study(name), read_size("smoke")
    assert {study.flags(size, model)["max_steps"] for model in study.models} <= {2, 4, 6}


def test_regions_are_those_of_the_pages():
    study = read_study("videos")
    assert study.flags(read_size("cpu"), "base")["region_size"] == [1, 4, 2]
    assert study.flags(read_size("gpu"), "gaze")["region_size"] == [1, 12, 6]
    assert read_study("main").flags(read_size("gpu"), "gaze")["region_size"] == [1, 6, 6]
    assert "region_size" not in read_study("main").flags(read_size("cpu"), "gaze")
