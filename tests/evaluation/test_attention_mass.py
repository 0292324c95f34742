"""Dense attention mass inside the chosen regions: counted by loops, and measured in answers against the oracle."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from cambrian_gaze.evaluation.answers import answer_records
from cambrian_gaze.evaluation.attention_mass import answer_mass, fewest
from cambrian_gaze.evaluation.cost.counts import regions_of_tokens
from cambrian_gaze.evaluation.journal import Journal
from cambrian_gaze.evaluation.questions import AnswerOptions
from cambrian_gaze.gaze.config import GazeConfig

REGION = torch.tensor([0, 0, 1, 1, 2])


def made(dense, regions):
    """A trace of one row, one token, one layer and a head for each line."""
    dense = torch.tensor(dense)[None, None, None]
    return SimpleNamespace(weights=SimpleNamespace(dense=dense), regions=torch.tensor(regions)[None, None, None])


def test_by_hand():
    trace = made([[0.1, 0.1, 0.5, 0.1, 0.2], [0.0, 0.3, 0.0, 0.0, 0.7]], [[1, -1], [0, 2]])
    found = {name: values[0][0] for name, values in answer_mass(trace, 0, 1, REGION).items()}
    assert found == {
        "inside": [0.6, 1.0], "best": [0.6, 1.0], "half": [1, 1], "most": [4, 2],
        "half_seen": [1, 1], "most_seen": [2, 2],
    }  # fmt: skip
    worse = answer_mass(made([[0.1, 0.1, 0.5, 0.1, 0.2]], [[2, 0]]), 0, 1, REGION)
    assert worse["inside"] == [[[0.4]]] and worse["best"] == [[[0.8]]] and worse["half_seen"] == [[[1]]]
    nothing = answer_mass(made([[0.2] * 5], [[-1]]), 0, 1, REGION)
    assert nothing["inside"] == nothing["best"] == [[[0.0]]] and nothing["half_seen"] == [[[0]]]


@pytest.mark.parametrize(("weights", "share", "count"), [
    ([0.25] * 4, 0.5, 2), ([0.25] * 4, 0.9, 4), ([0.5, 0.5, 0.0], 0.5, 1), ([1.0, 0.0], 0.9, 1), ([0.0, 0.0], 0.5, 0),
    ([0.1] * 10, 0.9, 9), ([2.0, 6.0, 2.0], 0.5, 1),
])  # fmt: skip
def test_fewest_entries(weights, share, count):
    assert int(fewest(torch.tensor(weights, dtype=torch.float64), share)) == count


def test_regions_of_the_tokens_of_several_pictures():
    config = GazeConfig.from_dict({"image": {"region_size": [1, 2, 2]}})
    found = regions_of_tokens([(1, 2, 4), (2, 2, 2)], [1, 2], config)
    assert found.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert regions_of_tokens([], [], config).tolist() == []


def test_kept_with_answers(tiny, records, folder, tmp_path):
    options = AnswerOptions({"max_new_tokens": 3, "do_sample": False}, {"top_k": 2}, keep_regions=True, batch_size=3)
    with Journal(tmp_path / "plain.jsonl") as journal:
        plain = answer_records(*tiny, records, folder, journal, options)
    options = dataclasses.replace(options, keep_mass=True)
    with Journal(tmp_path / "mass.jsonl") as journal:
        entries = answer_records(*tiny, records, folder, journal, options)
    for entry, other in zip(entries, plain, strict=True):
        assert entry["tokens"] == other["tokens"] and entry["regions"] == other["regions"]
        assert entry["key"] != other["key"] and "mass" not in other
    assert entries[4]["mass"] == {}  # no picture
    for entry, entries_there in zip(entries[:4], (64, 64, 64, 128), strict=True):
        mass = {name: torch.tensor(values) for name, values in entry["mass"].items()}
        assert all(values.shape == (len(entry["tokens"]), 3, 4) for values in mass.values())
        assert ((mass["inside"] > 0) & (mass["inside"] <= mass["best"] + 1e-3) & (mass["best"] < 1)).all()
        assert ((mass["half"] >= 1) & (mass["half"] <= mass["most"]) & (mass["most"] <= entries_there)).all()
        assert ((mass["half_seen"] >= 1) & (mass["most_seen"] <= 8)).all()
