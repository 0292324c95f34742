"""The log of samples that were set aside."""

import json
import os

import pytest

from cambrian_gaze.data.quarantine import (
    NOTHING_MISSING,
    ExpectedMissing,
    Quarantined,
    QuarantineLog,
    read_list,
    read_quarantine,
)


def item(row: int, reason: str = "bad") -> Quarantined:
    return Quarantined("train.jsonl", row, f"id{row}", reason)


def test_once_per_record_over_epochs_processes_and_restarts(tmp_path, caplog):
    path = tmp_path / "runs" / "quarantine.jsonl"
    assert read_quarantine(path) == []
    first, second = QuarantineLog(path, rank=0), QuarantineLog(path, rank=1)
    assert first.add(item(1)) and not first.add(item(1))
    assert second.add(item(2)) and not second.add(item(1))
    assert not first.add(item(2)) and not QuarantineLog(path).add(item(1))
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(e["file"], e["row"], e["id"], e["rank"]) for e in entries] == [
        ("train.jsonl", 1, "id1", 0),
        ("train.jsonl", 2, "id2", 1),
    ]
    assert entries[0]["reason"] == "bad" and entries[0]["time"].endswith("+00:00")
    assert caplog.text.count("quarantined bad") == 2


def test_lines_of_several_processes_do_not_mix(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    children = []
    for rank in range(4):
        if (child := os.fork()) == 0:
            log = QuarantineLog(path, rank)
            for row in range(50):
                log.add(item(rank * 50 + row, "ü" * 900))
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    assert sorted(entry["row"] for entry in map(json.loads, path.read_text().splitlines())) == list(range(200))


def test_a_line_cut_by_a_crash_is_passed_over(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    log = QuarantineLog(path)
    log.add(item(1))
    with open(path, "a") as stream:
        stream.write('{"file": "tr\n{"fi')
    assert [entry["row"] for entry in read_quarantine(path)] == [1]
    assert QuarantineLog(path).add(item(1)) is False
    assert QuarantineLog(path).add(item(2)) is True
    assert [entry["row"] for entry in read_quarantine(path)] == [1, 2]
    assert QuarantineLog(path).add(item(2)) is False


def test_lists_of_users_lose_no_line(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text("")
    assert read_list(path) == []
    path.write_text('{"file": "a", "row": 1}\n\n{"file": "a", "row": 1}\n{"file": "a", "row": 2}')
    assert [entry["row"] for entry in read_list(path)] == [1, 2]
    for line in ('{"file": "a", "ro', '{"file": "a"}', '["a", 2]', '{"file": "a", "row": "two"}', "7"):
        path.write_text(f'{{"file": "a", "row": 1}}\n{line}\n')
        with pytest.raises(ValueError, match="list.jsonl, line 2 is no .*delete the line"):
            read_list(path)
    with pytest.raises(ValueError, match="none.jsonl cannot be read .No such file"):
        read_list(tmp_path / "none.jsonl")


def test_rank_is_taken_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert QuarantineLog(tmp_path / "q").rank == 3


def test_expected_missing_is_allowed_evenly_and_never_more_than_all():
    quarter = ExpectedMissing(250, 1000)
    assert quarter.beyond(250, 1000) == 0 and quarter.beyond(251, 1000) == 1 and quarter.beyond(500, 2000) == 0
    assert quarter.beyond(43, 100) == 0 and quarter.beyond(100, 100) == 57  # 25, and four times 4.3
    in_order = ExpectedMissing(250, 1000, shuffled=False)
    assert in_order.beyond(250, 250) == 0 and in_order.beyond(251, 251) == 1
    assert NOTHING_MISSING.beyond(3, 100) == 3 and ExpectedMissing(9, 5).beyond(5, 5) == 0
