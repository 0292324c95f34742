"""A corpus of over 300 damaged records and media: all of it is found and named, and training survives it."""

import json
from collections import Counter

import pytest

from cambrian_gaze.data.inspect.check import check, is_clean
from cambrian_gaze.data.inspect.record import Inspector
from cambrian_gaze.data.inspect.survey import survey
from cambrian_gaze.data.media.frame_sampling import DECODERS, FrameSampling
from cambrian_gaze.data.mixture.recipe import recipe_of
from cambrian_gaze.data.quarantine import read_quarantine
from tests.data._damaged import build
from tests.training._runs import TINY


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build(tmp_path_factory.mktemp("corpus"))


def recipe(corpus):
    return recipe_of([str(path) for path in corpus.files], str(corpus.folder))


@pytest.mark.parametrize("backend", DECODERS)
def test_every_damaged_row_is_found_and_named(corpus, backend):
    assert len(corpus.expected) > 300 and len(corpus.good) > 70
    inspector = Inspector("decode", FrameSampling(video_backend=backend))
    found, rows, bad = {}, 0, 0
    for one, findings in survey(recipe(corpus), inspector, workers=0):
        for finding in findings:
            found[one.source.path, finding.row] = {problem.kind for problem in finding.problems}
            assert all(problem.reason and problem.remedy for problem in finding.problems)
            assert all(len(problem.reason) < 2000 for problem in finding.problems)
    assert found.keys() == corpus.expected.keys()
    assert {key: kinds for key, kinds in found.items() if corpus.expected[key] not in kinds} == {}
    for report in check(recipe(corpus), inspector, workers=2):
        rows += report.survey.facts.rows
        bad += report.survey.facts.bad_rows
    assert (rows, bad) == (len(corpus.expected) + len(corpus.good), len(corpus.expected))


def test_the_quarantine_list_holds_what_a_run_cannot_use(corpus, tmp_path):
    reports = check(recipe(corpus), Inspector("decode"), workers=0, quarantine=tmp_path / "q.jsonl")
    assert not is_clean(reports)
    entries = read_quarantine(tmp_path / "q.jsonl")
    assert {(entry["file"], entry["row"]) for entry in entries} == corpus.expected.keys()
    assert all("Remedy: " in entry["reason"] for entry in entries)
    counts = Counter(kind for report in reports for kind in report.survey.facts.problems.elements())
    assert counts >= Counter(corpus.expected.values())


@pytest.mark.parametrize("media", ["exists", "header"])
def test_a_quicker_look_accuses_no_good_row(corpus, media):
    """What it can miss is damage inside files."""
    findings = {}
    for one, more in survey(recipe(corpus), Inspector(media), workers=0):
        findings |= {(one.source.path, finding.row): finding for finding in more}
    assert findings.keys() <= corpus.expected.keys()
    missed = {corpus.expected[key] for key in corpus.expected.keys() - findings.keys()}
    assert missed == {"undecodable"}


@pytest.mark.slow
def test_training_survives_it_and_the_counts_add_up(corpus, tmp_path):
    """One epoch over everything; then one that the list of `data check` spares the damage."""
    from cambrian_gaze.training.run import main

    check(recipe(corpus), Inspector("decode"), workers=0, quarantine=tmp_path / "q.jsonl")
    values = {key: value for key, value in TINY.items() if key != "max_steps"} | {
        "data_path": [str(path) for path in corpus.files],
        "image_folder": corpus.folder,
        "num_train_epochs": 1,
        "save_strategy": "no",
        "max_quarantined_share": 1.0,
        "grad_spike_factor": 0,  # A step left out for its norm would have no loss in the log.
        "max_length": 2048,
    }

    def run(name, **more):
        out = tmp_path / name
        argv = []
        for key, value in {**values, "output_dir": out, **more}.items():
            argv += [f"--{key}", *map(str, value)] if isinstance(value, list) else [f"--{key}={value}"]
        assert main(argv) == 0
        log = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
        logged = read_quarantine(out / "quarantine.jsonl")
        return log, {(entry["file"], entry["row"]) for entry in logged}

    log, quarantined = run("all")
    assert quarantined == corpus.expected.keys()
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses and all(loss == loss and loss < 100 for loss in losses)
    log, quarantined = run("spared", exclude=[str(tmp_path / "q.jsonl")])
    assert quarantined == set()
    steps = max(line["step"] for line in log if "loss" in line)
    assert steps == -(-len(corpus.good) // values["per_device_train_batch_size"])
