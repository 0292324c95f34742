"""Paths that lead nowhere are said at once, in every command that loads something; the hub is not asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cambrian_gaze import CambrianGazeConfig, CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.cli.main import main
from cambrian_gaze.models.folders.source import NoSuchFolder, known_source, looks_like_path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `work/stage2-old` and a file, in which nothing may ask the hub."""
    (tmp_path / "work" / "stage2-old").mkdir(parents=True)
    (tmp_path / "work" / "model.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)

    def refused(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", refused)
    monkeypatch.setattr("socket.socket.connect", refused)
    return tmp_path


@pytest.mark.parametrize("name", ["./x", "/no/such", "~/no/such", "..", "a/b/c", "runs/stage2", "work/x", "x/"])
def test_what_is_meant_as_a_path(place, name):
    assert looks_like_path(name)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-4B", "gpt2", "google/siglip2-so400m-patch16-384"])
def test_what_may_be_an_id_of_the_hub(place, name):
    assert not looks_like_path(name) and known_source(name) == name


def test_a_folder_is_itself_and_a_file_none(place):
    assert known_source("work/stage2-old") == "work/stage2-old"
    assert known_source(place / "work") == str(place / "work")
    with pytest.raises(NoSuchFolder, match="is a file; name the folder that holds it"):
        known_source("work/model.safetensors")


def test_the_nearest_comes_first(place):
    for name in ("zeta", "alpha"):
        (place / "work" / name).mkdir()
    with pytest.raises(NoSuchFolder, match="in work there are stage2-old, alpha, zeta") as caught:
        known_source("work/stage2")
    assert "Qwen/Qwen3-4B" in str(caught.value)
    with pytest.raises(NoSuchFolder, match="in the working directory there are work"):
        known_source("runs/stage2/last")
    assert isinstance(caught.value, OSError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("kind", [CambrianGazeConfig, CambrianGazeProcessor, CambrianGazeForConditionalGeneration])
def test_our_classes_say_it(place, kind):
    with pytest.raises(NoSuchFolder, match="stage2-old"):
        kind.from_pretrained("work/stage2")


RUN = ["train", "--preset", "tiny", "--output_dir", "out", "--data_path", "d.jsonl"]


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--model", "runs/x", "--prompt", "a"],
        ["answer", "--model", "runs/x", "--data_path", "d.jsonl", "--output", "a.jsonl"],
        ["serve", "--model", "runs/x"],
        ["eval", "run", "--model", "runs/x", "--tasks", "mme", "--output", "e", "--data-root", "."],
        ["eval", "cost", "--model", "runs/x", "--output", "e"],
        ["export", "--model", "runs/x", "--out", "out", "--format", "bf16"],
        ["export", "--model", "runs/x", "--out", "out", "--format", "llava"],
        ["merge", "--model", "runs/x", "--adapter", "adapter", "--out", "out"],
        ["convert", "to-cambrian", "runs/x", "--out", "out"],
        ["convert", "from-cambrian", "runs/x", "--out", "out"],
        ["init", "--llm", "runs/x", "--vision", "runs/y", "--out", "out"],
        ["data", "preview", "d.jsonl", "--model", "runs/x", "--out", "p"],
        ["data", "stats", "d.jsonl", "--model", "runs/x", "--out", "p"],
        ["plan", "c.yaml", "--model_name_or_path", "runs/x"],
        [*RUN, "--model_name_or_path", "runs/x"],
        [*RUN, "--vision_tower", "./x"],
        [*RUN, "--tokenizer_name_or_path", "./x"],
    ],
    ids=" ".join,
)
def test_every_command_says_it(place, capsys, words):
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    (place / "d.jsonl").write_text(json.dumps({"id": 0, "conversations": turns}) + "\n")
    (place / "c.yaml").write_text("stage: 2\noutput_dir: out\ndata_path: d.jsonl\n")
    (place / "adapter").mkdir()
    (place / "adapter" / "adapter_config.json").write_text("{}")
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    told = capsys.readouterr().err
    assert status, words
    assert "no such folder" in told and "work" in told, told
    assert "Traceback" not in told
