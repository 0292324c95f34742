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


def test_the_video_options_choose_the_frames_and_are_part_of_the_key(
    model_dir: Path, tmp_path: Path, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "film").mkdir()
    for number in range(4):
        (tmp_path / "film" / f"{number}.png").write_bytes(page.read_bytes())
    question = [{"from": "human", "value": "<video>\nWhat is this?"}]

    def entries(*arguments: str, **clip: float) -> list[dict]:
        (tmp_path / "records.jsonl").write_text(
            json.dumps({"id": "film", "video": "film", "conversations": question, **clip}) + "\n"
        )
        assert answer(model_dir, tmp_path / "records.jsonl", *arguments) == 0
        return [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]

    whole, half = entries()[-1], entries("--video_fps", "0.5")[-1]
    assert (whole["attended"]["of"], half["attended"]["of"]) == (4 * 64, 2 * 64)
    assert len(entries("--video_max_frames", "2")) == 3
    assert len(entries("--video_max_frames", "2", "--video_force_sample")) == 4
    assert len(entries("--video_backend", "pyav")) == 5
    assert entries(end_time=1.0)[5]["attended"]["of"] == 64, "the clip is part of the key"
    assert len(entries("--video_timeout", "9")) == 6, "the time limit is not"

    capsys.readouterr()
    assert answer(model_dir, tmp_path / "records.jsonl", "--video_fps", "0") == 1
    assert "video_fps=0.0" in capsys.readouterr().err


def test_defaults_are_those_of_frame_sampling() -> None:
    from cambrian_gaze.cli import answer as command
    from cambrian_gaze.cli.arguments import sampling_from
    from cambrian_gaze.data.frame_sampling import FrameSampling

    arguments = command.build_parser().parse_args(["--model", "m", "--data_path", "d", "--output", "o"])
    assert sampling_from(arguments) == FrameSampling()
