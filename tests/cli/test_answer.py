import json
from pathlib import Path

import pytest

from cambrian_gaze.cli.main import main


@pytest.fixture
def records(tmp_path: Path, page: Path) -> Path:
    """Two questions, with and without a picture; the second has no answer to leave out."""
    rows = [
        {
            "id": "seen",
            "image": page.name,
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is this?"},
                {"from": "gpt", "value": "A page."},
            ],
        },
        {"id": "unseen", "conversations": [{"from": "human", "value": "What is this?"}]},
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answer(model: Path, records: Path, *arguments: str) -> int:
    source = ["--model", str(model), "--data_path", str(records), "--image_folder", str(records.parent)]
    target = ["--output", str(records.parent / "answers.jsonl"), "--max_new_tokens", "3"]
    return main(["answer", *source, *target, *arguments])


def test_every_record_is_answered_once(model_dir: Path, records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(model_dir, records, "--top_k", "1") == 0
    assert "2 answers in" in capsys.readouterr().out
    journal = records.parent / "answers.jsonl"
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    assert sorted(entry["id"] for entry in entries) == ["seen", "unseen"]
    assert all(entry["attended"]["visual"] < entry["attended"]["of"] for entry in entries if entry["id"] == "seen")

    assert answer(model_dir, records, "--top_k", "1") == 0
    assert len(journal.read_text().splitlines()) == 2


def test_broken_records_are_named(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": 1}\n')
    assert answer(model_dir, broken) == 1
    error = capsys.readouterr().err
    assert "broken.jsonl" in error and "row 1" in error
