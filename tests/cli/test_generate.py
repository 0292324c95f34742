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


def test_missing_image_is_named(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(model_dir, "--image", str(tmp_path / "nowhere.png")) == 1
    assert "nowhere.png" in capsys.readouterr().err


def test_missing_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(tmp_path / "no-model") == 1
    assert "no-model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trace", "gaze.png"], "--trace shows where the model looked"),
        (["--top_k", "2", "--keep_ratio", "0.5"], "not allowed with argument"),
        (["--top_k", "none"], "no integer of at least 1"),
    ],
)
def test_wrong_options_are_refused(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        generate(tmp_path, *arguments)
    assert said in capsys.readouterr().err
