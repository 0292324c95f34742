from pathlib import Path

import pytest
from PIL import Image

from cambrian_gaze.cli.main import main


def generate(model: Path, *arguments: str) -> int:
    return main(["generate", "--model", str(model), "--prompt", "What is this?", "--max_new_tokens", "3", *arguments])


def test_answers_about_an_image_alike_each_time(
    model_dir: Path, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for _ in range(2):
        assert generate(model_dir, "--image", str(page), "--top_k", "1") == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_answers_without_and_with_several_images(model_dir: Path, page: Path) -> None:
    assert generate(model_dir) == 0
    assert generate(model_dir, "--image", str(page), "--image", str(page), "--keep_ratio", "0.5") == 0


def test_trace_is_a_picture(model_dir: Path, page: Path, tmp_path: Path) -> None:
    target = tmp_path / "pictures" / "gaze.png"
    assert generate(model_dir, "--image", str(page), "--trace", str(target)) == 0
    with Image.open(target) as picture:
        assert min(picture.size) > 32


@pytest.mark.parametrize("question", ["What?", "<image>\nWhat?", "What?\n<image>"])
def test_the_prompt_has_the_tokens_of_training(
    model_dir: Path, page: Path, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the record "<image>\\nWhat?" up to its answer."""
    from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
    from cambrian_gaze.data.conversation import messages_from_record
    from cambrian_gaze.data.encode import encode_conversation
    from cambrian_gaze.data.records.records import parse_record

    processor = CambrianGazeProcessor.from_pretrained(model_dir)
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A page."}]
    record = parse_record({"id": 1, "image": "page.png", "conversations": turns}, "rows.jsonl", 1)
    sample = encode_conversation(
        messages_from_record(record), processor.tokenizer, [(1, *processor.grid_hw)], processor.num_context_tokens
    )
    seen: list[list[int]] = []
    real = CambrianGazeForConditionalGeneration.generate

    def spy(self, *args, **kwargs):
        seen.append(kwargs["input_ids"][0].tolist())
        return real(self, *args, **kwargs)

    monkeypatch.setattr(CambrianGazeForConditionalGeneration, "generate", spy)
    assert generate(model_dir, "--image", str(page), "--prompt", question) == 0
    answer = next(i for i, label in enumerate(sample["labels"]) if label != -100)
    assert seen == [sample["input_ids"][:answer]]


def test_a_video_and_its_trace(model_dir: Path, page: Path, tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    for number in range(3):
        (tmp_path / "film" / f"{number}.png").write_bytes(page.read_bytes())
    target = tmp_path / "gaze.png"
    shown = ["--video", str(tmp_path / "film"), "--trace", str(target), "--top_k", "1"]
    assert generate(model_dir, *shown, "--video_max_frames", "2") == 0
    assert target.is_file()
    assert generate(model_dir, *shown, "--image", str(page), "--prompt", "<image> then <video>") == 0


def test_sampling_repeats_with_its_seed(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert generate(model_dir, *arguments) == 0
        return capsys.readouterr().out

    greedy = said()
    assert said("--sampling_top_k", "1", "--seed", "1") == said("--temperature", "0") == greedy
    sampled = [said("--temperature", "1", "--seed", seed) for seed in ("1", "1", "2", "3")]
    assert sampled[0] == sampled[1] and len(set(sampled)) > 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--image", "nowhere.png"], "nowhere.png: there is no such file"),
        (["--video", "nowhere"], "nowhere: there is no such file"),
        (["--image", "{text}"], "is not an image that can be read"),
        (["--model", "{nothing}"], "no such folder: {nothing}"),
        (["--model", "{text}"], "is a file; name the folder"),
        (["--model", "{folder}"], "holds no config.json"),
        (["--device", "cuda:99"], "--device cuda:99: this machine has"),
        (["--prompt", "<image> <image>", "--image", "{page}"], "write one placeholder for each"),
        (["--prompt", "word " * 3000], "exceed the 2048 positions"),
        (["--max_new_tokens", "5000"], "ask for a shorter answer"),
    ],
)
def test_what_is_given_wrongly_is_said_in_one_line(
    model_dir: Path, tmp_path: Path, page: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.safetensors").write_text("no picture")
    places = {"text": tmp_path / "text.safetensors", "nothing": tmp_path / "nothing", "folder": tmp_path, "page": page}
    assert generate(model_dir, *(word.format(**places) for word in arguments)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]  # transformers may have shown that it loads
    assert line.startswith("cambrian-gaze generate: ") and said.format(**places) in line and len(line) < 400
    assert "--image_folder" not in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trace", "gaze.png"], "--trace shows where the model looked"),
        (["--image", "a.png", "--trace", "b.png", "--policy", "recent", "budget=8"], "--trace shows"),
        (["--top_k", "2", "--keep_ratio", "0.5"], "not allowed with argument"),
        (["--top_k", "none"], "no integer of at least 1"),
        (["--temperature", "-1"], "no number from 0 to 100"),
        (["--top_p", "nan"], "no number above 0"),
        (["--seed", "18446744073709551616"], "no integer from 0"),
    ],
)
def test_wrong_options_are_refused(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        generate(tmp_path, *arguments)
    assert said in capsys.readouterr().err
