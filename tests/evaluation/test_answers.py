"""Answers: resumed without repeating any, counted against the cost model, identified by all that they depend on."""

import dataclasses

import pytest
import torch

from cambrian_gaze.evaluation.answers import answer_records
from cambrian_gaze.evaluation.journal import Journal
from cambrian_gaze.evaluation.prompts import prompt_messages
from cambrian_gaze.evaluation.questions import AnswerOptions

OPTIONS = AnswerOptions({"max_new_tokens": 5, "do_sample": False}, {"top_k": 2}, keep_regions=True, batch_size=2)


def answer(tiny, records, folder, path, options=OPTIONS, **kwargs):
    with Journal(path) as journal:
        return answer_records(*tiny, records, folder, journal, options, **kwargs)


@pytest.fixture(scope="module")
def first(tiny, folder, tmp_path_factory):
    from cambrian_gaze.data.records.records import read_records

    path = tmp_path_factory.mktemp("journal") / "answers.jsonl"
    return path, answer(tiny, list(read_records(folder / "rows.jsonl")), folder, path)


def test_entries(first):
    _, entries = first
    assert [entry["id"] for entry in entries] == list("01234")
    for entry in entries:
        assert 1 <= len(entry["tokens"]) <= 5 and entry["seconds"] > 0
    assert torch.tensor(entries[0]["regions"]).shape == (len(entries[0]["tokens"]), 3, 4, 2)


def test_counts_are_those_of_the_cost_model(first):
    _, entries = first
    assert [entry["attended"] for entry in entries] == [
        *[{"visual": 8.0, "context": 4.0, "of": 64}] * 3,
        {"visual": 8.0, "context": 8.0, "of": 128},
        {"visual": 0.0, "context": 0.0, "of": 0},
    ]


def test_nothing_is_answered_twice(tiny, records, folder, first, monkeypatch):
    path, entries = first
    monkeypatch.setattr(tiny[0], "generate", lambda **kwargs: pytest.fail("generated again"))
    steps = []
    assert answer(tiny, records, folder, path, progress=steps.append) == entries
    assert sum(steps) == len(records)


def test_a_killed_run_continues(tiny, records, folder, first, tmp_path):
    path, entries = first
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    kept = len(Journal(cut))
    assert 0 < kept < len(records)
    again = answer(tiny, records, folder, cut)
    assert [entry["tokens"] for entry in again] == [entry["tokens"] for entry in entries]
    assert len(cut.read_text().splitlines()) == len(records)


@pytest.mark.parametrize(
    "changes",
    [{"gaze": {"top_k": 1}}, {"gaze": {"top_k": 2, "context_visible": False}}, {"blank_images": True},
     {"generation": {"max_new_tokens": 4, "do_sample": False}}],
)  # fmt: skip
def test_other_options_are_other_answers(tiny, records, folder, first, tmp_path, changes):
    path, _ = first
    copy = tmp_path / "answers.jsonl"
    copy.write_bytes(path.read_bytes())
    answer(tiny, records[:1], folder, copy, dataclasses.replace(OPTIONS, **changes))
    assert len(copy.read_text().splitlines()) == len(records) + 1


def test_hidden_regions_are_part_of_the_answer(tiny, records, folder, first, tmp_path):
    _, entries = first
    looked = [{r for step in one["regions"] for layer in step for head in layer for r in head} for one in entries]
    hidden = {"0": sorted(looked[0])[:3], "3": [31]}
    path = tmp_path / "answers.jsonl"
    found = answer(tiny, records, folder, path, dataclasses.replace(OPTIONS, hidden=hidden))
    chosen = [{r for step in one["regions"] for layer in step for head in layer for r in head} for one in found]
    assert not chosen[0] & set(hidden["0"]) and 31 not in chosen[3]
    assert [one["regions"] == other["regions"] for one, other in zip(found, entries, strict=True)][1:3] == [True, True]
    keys = [one["key"] == other["key"] for one, other in zip(found, entries, strict=True)]
    assert keys == [False, True, True, False, True]


def test_hidden_regions_are_counted(tiny, records, folder, tmp_path):
    few = dataclasses.replace(OPTIONS, hidden={"0": list(range(15)), "1": [3]}, gaze={"top_k": 16})
    counts = [one["attended"] for one in answer(tiny, records[:3], folder, tmp_path / "answers.jsonl", few)]
    assert counts == [{"visual": visual, "context": 4.0, "of": 64} for visual in (4.0, 60.0, 64.0)]


def test_other_weights_are_other_answers(tiny, records, folder, first, tmp_path):
    path, _ = first
    copy = tmp_path / "answers.jsonl"
    copy.write_bytes(path.read_bytes())
    weight = next(tiny[0].parameters())
    with torch.no_grad():
        weight.view(-1)[0] += 1
        answer(tiny, records[:1], folder, copy)
        weight.view(-1)[0] -= 1
    assert len(copy.read_text().splitlines()) == len(records) + 1


def test_blank_pictures_are_all_alike(tiny, records, folder, tmp_path):
    blank = dataclasses.replace(OPTIONS, blank_images=True)
    entries = answer(tiny, records[:3], folder, tmp_path / "answers.jsonl", blank)
    assert len({tuple(entry["tokens"]) for entry in entries}) == 1


def test_the_answer_is_not_in_the_prompt(records):
    assert prompt_messages(records[0]) == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nRead B3"}]}
    ]
    assert prompt_messages(records[4])[0]["content"] == [{"type": "text", "text": "Say something"}]
