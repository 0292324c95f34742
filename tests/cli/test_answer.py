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
    assert [entry["id"] for entry in entries] == ["seen", "unseen"], "in the order of the file"
    assert [(entry["question"], entry["reference"]) for entry in entries] == [
        ("<image>\nWhat is this?", "A page."),
        ("What is this?", None),
    ]
    assert all(entry["attended"]["visual"] < entry["attended"]["of"] for entry in entries if entry["id"] == "seen")

    assert answer(model_dir, records, "--top_k", "1") == 0
    assert len(journal.read_text().splitlines()) == 2


def test_a_policy_takes_the_place_of_routing(
    model_dir: Path, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(model_dir, records, "--policy", "snapkv", "budget=8") == 0
    entries = map(json.loads, (records.parent / "answers.jsonl").read_text().splitlines())
    assert [(entry["attended"]["visual"], entry["attended"]["retained"]) for entry in entries] == [(8, 8), (0, 0)]
    for wrong, message in (
        (("--policy", "snapkv", "budget"), "--policy NAME takes KEY=VALUE"),
        (("--policy", "snapkw", "budget=8"), "did you mean 'snapkv'"),
        (("--policy", "snapkv", "budget=8", "--top_k", "2"), "give one of them"),
        (("--policy", "snapkv", "budget=8", "--trace_folder", "traces"), "under --policy none is"),
    ):
        assert answer(model_dir, records, *wrong) == 2
        assert message in capsys.readouterr().err


def test_broken_records_are_named(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": 1}\n')
    assert answer(model_dir, broken) == 1
    error = capsys.readouterr().err
    assert "broken.jsonl" in error and "row 1" in error


def asked(number: int, **more: str) -> dict:
    """Shorter and shorter questions, so that those of a batch by length come in another order."""
    turns = [{"from": "human", "value": "What? " * (9 - number)}, {"from": "gpt", "value": f"It is {number}."}]
    return {"id": number, "conversations": turns, **more}


def test_what_cannot_be_answered_is_named_and_the_others_are_answered(
    model_dir: Path, tmp_path: Path, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing picture, one outside the folder, one that is none, a line that is no JSON, a prompt that is too long, a
    row of another form, and a placeholder without a picture; then again after the picture came."""
    (tmp_path / "text.png").write_text("no picture")
    outside = tmp_path.parent / "outside.png"
    outside.write_bytes(page.read_bytes())
    rows = [json.dumps(asked(number)) for number in range(9)]
    rows[1] = json.dumps(asked(1, image="late.png"))
    rows[2] = json.dumps(asked(2, image="text.png"))
    rows[3] = '{"id": 3'
    rows[4] = json.dumps({"id": 4, "conversations": [{"from": "human", "value": "word " * 3000}]})
    rows[5] = json.dumps({"id": 5, "messages": []})
    rows[6] = json.dumps(asked(6, image="../outside.png"))
    rows[7] = json.dumps({"id": 7, "conversations": [{"from": "human", "value": "<image> What?"}]})
    records = tmp_path / "records.jsonl"
    records.write_text("\n".join(rows) + "\n")

    def ids() -> list[str]:
        return [json.loads(line)["id"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]

    assert answer(model_dir, records, "--batch_size", "4") == 1
    said = capsys.readouterr()
    assert ids() == ["0", "8"] and "7 records were not answered" in said.out
    reasons = ("late.png", "text.png", "JSON", "positions", "conversation is empty", "outside", "placeholders")
    for row, reason in enumerate(reasons, 2):
        (line,) = (line for line in said.err.splitlines() if f"records.jsonl, row {row}:" in line)
        assert reason in line

    (tmp_path / "late.png").write_bytes(page.read_bytes())
    assert answer(model_dir, records, "--batch_size", "4") == 1
    assert ids() == ["0", "1", "8"]
    records.write_text(rows[1] + "\n")
    assert answer(model_dir, records) == 0, "other answers of the journal stay"
    assert sorted(ids()) == ["0", "1", "8"]


def test_videos_have_a_folder_of_their_own(model_dir: Path, tmp_path: Path, page: Path) -> None:
    for place in ("images", "videos/film"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "videos/film/0.png").write_bytes(page.read_bytes())
    question = [{"from": "human", "value": "<video>\nWhat?"}]
    records = tmp_path / "images" / "records.jsonl"
    records.write_text(json.dumps({"id": 1, "video": "film", "conversations": question}) + "\n")
    assert answer(model_dir, records) == 1
    assert answer(model_dir, records, "--video_folder", str(tmp_path / "videos")) == 0


def test_traces_of_answers(model_dir: Path, tmp_path: Path, page: Path) -> None:
    """One for each answer with a picture, whatever stands beside it in its batch; the journal stays the same."""
    from cambrian_gaze.viz.trace import Trace

    (tmp_path / "b.png").write_bytes(page.read_bytes())
    rows = [asked(1, image=page.name), asked(2), asked(3, image=["b.png", page.name]), asked(4, image="b.png")]
    rows[3]["id"] = "../four/4"
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    traces = tmp_path / "traces"
    assert answer(model_dir, records, "--batch_size", "4", "--trace_folder", str(traces), "--top_k", "1") == 0
    journal = tmp_path / "answers.jsonl"
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    files = sorted(traces.iterdir())
    assert [file.name.rsplit("-", 1)[0] for file in files] == ["1", "3", "_four_4"]
    for file, entry in zip(files, [entries[0], *entries[2:]], strict=True):
        trace = Trace.load(file)
        assert trace.token_ids.tolist() == entry["tokens"] and "<image>" not in trace.prompt
        assert trace.prompt and trace.prompt in entry["question"]
        assert trace.attended[..., 0].max() == trace.attended[..., 0].min() > 0 and trace.logprobs is not None
    assert len(Trace.load(files[1]).items) == 2
    journal.unlink()
    assert answer(model_dir, records, "--batch_size", "4", "--top_k", "1") == 0
    assert [json.loads(line)["key"] for line in journal.read_text().splitlines()] == [e["key"] for e in entries]


def test_sampled_answers_repeat_with_their_seed(model_dir: Path, records: Path) -> None:
    def answers(seed: int) -> list[list[int]]:
        (records.parent / "answers.jsonl").unlink(missing_ok=True)
        assert answer(model_dir, records, "--temperature", "1", "--seed", str(seed)) == 0
        lines = (records.parent / "answers.jsonl").read_text().splitlines()
        return [json.loads(line)["tokens"] for line in lines]

    assert answers(1) == answers(1) != answers(2)
    assert answer(model_dir, records, "--temperature", "1", "--seed", "3") == 0
    assert len((records.parent / "answers.jsonl").read_text().splitlines()) == 4, "the seed is part of the key"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--image_folder", "nowhere"], "--image_folder nowhere: there is no such folder"),
        (["--video_folder", "nowhere"], "--video_folder nowhere: there is no such folder"),
        (["--data_path", "nothing.jsonl"], "nothing.jsonl"),
        (["--device", "cuda:99"], "--device cuda:99: this machine has"),
        (["--device", "gpu"], "no device has this name"),
        (["--temperature", "0", "--top_p", "0.5"], "no effect at --temperature 0"),
    ],
)
def test_what_is_given_wrongly_is_said_in_one_line(
    model_dir: Path, records: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(model_dir, records, *arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_two_runs_do_not_write_one_journal(model_dir: Path, records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cambrian_gaze.evaluation.journal import alone

    with alone(records.parent / "answers.jsonl"):
        assert answer(model_dir, records) == 2
    assert "another process writes" in capsys.readouterr().err


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
    assert answer(model_dir, tmp_path / "records.jsonl", "--video_fps", "0") == 2
    assert "video_fps=0.0" in capsys.readouterr().err


def test_defaults_are_those_of_frame_sampling() -> None:
    from cambrian_gaze.cli import answer as command
    from cambrian_gaze.cli.arguments import sampling_from
    from cambrian_gaze.data.media.frame_sampling import FrameSampling

    arguments = command.build_parser().parse_args(["--model", "m", "--data_path", "d", "--output", "o"])
    assert sampling_from(arguments) == FrameSampling()
