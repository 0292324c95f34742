"""docs/finetune.md, run: every command of the page, in order, on the records that it shows."""

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from tests.test_docs import SHELL, blocks_of, commands_of

ROOT = Path(__file__).resolve().parent.parent


def models_served(command: list[str], folder: Path, environment: dict[str, str]) -> list[str]:
    """Names of the models at the endpoint that `command` starts; it is ended again."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment) as process:
        try:
            address = next(re.search(r"http://\S+/v1", line) for line in process.stdout if "http://" in line).group()
            with urllib.request.urlopen(f"{address}/models", timeout=30) as answer:
                return [model["id"] for model in json.load(answer)["data"]]
        finally:
            process.terminate()


@pytest.mark.slow
def test_the_commands_of_the_page_fine_tune_a_model(tmp_path: Path) -> None:
    from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor

    CambrianGazeForConditionalGeneration.from_preset("tiny").save_pretrained(tmp_path / "runs" / "stage2")
    CambrianGazeProcessor.from_preset("tiny").save_pretrained(tmp_path / "runs" / "stage2")
    page = blocks_of(ROOT / "docs" / "finetune.md")
    (text,) = (block.text for block in page if block.language == "json")
    for name in ("my.json", "held_out.json"):
        (tmp_path / name).write_text(text)
    for record in json.loads(text):
        for name in [record["image"]] if isinstance(record["image"], str) else record["image"]:
            path = tmp_path / "my_images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.radial_gradient("L").convert("RGB").save(path)
    (tmp_path / "train").symlink_to(ROOT / "train")
    commands = [words for block in page if block.language in SHELL for words in commands_of(block.text)]
    names = ["train", "data", "data", "generate", "train", "generate", "merge", "answer", "export", "serve", "push"]
    assert [words[1] for words in commands] == names
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words in commands:
        command = [sys.executable, "-m", "cambrian_gaze.cli.main", *words[1:]]
        if words[1] == "serve":
            adapted = ["--model", "runs/stage2", "--adapter", "runs/mine_lora"]
            for options, name in ([], "mine_bf16"), (adapted, "stage2"):
                assert models_served([*command, *options, "--port", "0"], tmp_path, environment) == [name]
            continue
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
        assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout}\n{result.stderr}"
    log = [json.loads(line) for line in (tmp_path / "runs" / "mine" / "train_log.jsonl").read_text().splitlines()]
    assert max(line.get("epoch") or 0 for line in log) == 3
    assert (tmp_path / "runs" / "mine" / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "mine_bf16" / "model.safetensors").is_file()
    log = [json.loads(line) for line in (tmp_path / "runs" / "mine_lora" / "train_log.jsonl").read_text().splitlines()]
    assert sum("eval_loss" in line for line in log) == 3
    assert (tmp_path / "bad.jsonl").read_text() == "" and (tmp_path / "preview.html").is_file()
