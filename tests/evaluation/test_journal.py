"""The journal: survives a kill at any byte, keeps complete lines, and tells identities apart."""

import json

import pytest

from cambrian_gaze.evaluation.journal import Journal, entry_key


def test_answers_are_on_disk_at_once(tmp_path):
    journal = Journal(tmp_path / "deep" / "answers.jsonl")
    journal.append({"key": "a", "answer": "sieben ünd"})
    assert Journal(journal.path)["a"]["answer"] == "sieben ünd"


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_cut_last_line_is_dropped_and_answered_again(tmp_path, cut):
    path = tmp_path / "answers.jsonl"
    with Journal(path) as journal:
        for key in "abc":
            journal.append({"key": key, "answer": f"the answer to {key}"})
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path) as journal:
        assert list(journal.entries) == ["a", "b"] and "c" not in journal
        journal.append({"key": "c", "answer": "again"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["key"] for line in lines] == ["a", "b", "c"] and lines[-1]["answer"] == "again"


def test_the_last_line_of_a_key_counts(tmp_path):
    with Journal(tmp_path / "answers.jsonl") as journal:
        journal.append({"key": "a", "answer": 1})
        journal.append({"key": "a", "answer": 2})
    assert Journal(journal.path)["a"]["answer"] == 2


@pytest.mark.parametrize("line", ["{broken", '"text"', '{"no": "key"}'])
def test_a_damaged_line_inside_is_named(tmp_path, line):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"key": "a"}\n' + line + '\n{"key": "b"}\n')
    with pytest.raises(ValueError, match="line 2"):
        Journal(path)


def test_keys_cover_the_identity():
    base = {"id": "1", "gaze": {"top_k": 2, "context_visible": True}, "weights": "w"}
    assert entry_key(**base) == entry_key(**dict(reversed(base.items())))
    assert entry_key(**base) != entry_key(**{**base, "gaze": {"top_k": 1, "context_visible": True}})
    assert entry_key(**base) != entry_key(**{**base, "weights": "v"})


def test_arranged_entries_survive_in_the_order_asked_for(tmp_path):
    """Others first; unknown keys and repeated ones add nothing; later answers are appended to the new file."""
    path = tmp_path / "answers.jsonl"
    with Journal(path) as journal:
        for key in "badce":
            journal.append({"key": key, "answer": key.upper()})
        journal.arrange(["a", "x", "c", "b", "a"])
        assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == list("deacb")
        journal.append({"key": "f", "answer": "F"})
    assert list(Journal(path).entries) == list("deacbf")
    assert [file.name for file in tmp_path.iterdir()] == ["answers.jsonl"], "nothing is left beside it"
