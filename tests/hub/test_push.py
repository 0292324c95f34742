"""To the hub and back: through a stand-in of its API, and through the layout of its cache."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.cli.main import main
from cambrian_gaze.hub.card import model_card, read_scores
from cambrian_gaze.hub.push import CardParts, push_to_hub
from cambrian_gaze.models.export import export
from cambrian_gaze.models.folders.lineage import parent, read_lineage, write_lineage
from tests.training._hub import COMMIT, serving
from tests.training._runs import ROOT, flags, run, write_data

ARMS = {"gaze": {"title": "gaze, K=2", "accuracy": 0.91, "ci95": [0.9, 0.92], "n": 4096, "attended_visual_kv": 12.0}}
ARMS["gaze"]["visual_tokens"] = 64
SCORES = {"mme.cambrian": {"value": 61.5, "ci95": [60.25, 62.75], "n": 100, "status": "INCOMPLETE: limited"}}
SCORES["mme.cambrian"]["attended"] = {"visual": 72.0, "context": 4.0, "of": 576.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps; tests copy it."""
    folder = tmp_path_factory.mktemp("hub")
    output = folder / "run"
    data = write_data(folder / "data", list("iiti"))
    assert run(flags(data, output, stage=2, max_steps=2, save_steps=2, warmup_ratio=0)) == 0
    return output


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_the_card_tells_what_the_files_say(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "arms.json").write_text(json.dumps({"arms": ARMS, "seed": 0}))
    (tmp_path / "scores.json").write_text(json.dumps(SCORES))
    scores = read_scores(tmp_path / "arms.json") + read_scores(tmp_path / "scores.json")
    Image.new("RGB", (4, 4)).save(folder / "gaze.png")
    card = model_card(folder, "me/tiny", scores, "apache-2.0")
    _, front, text = card.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["pipeline_tag"] == "image-text-to-text" and front["license"] == "apache-2.0"
    assert "base_model" not in front, "fresh weights have no base"
    lineage, log = read_lineage(folder), [json.loads(line) for line in (folder / "train_log.jsonl").open()]
    last = [line for line in log if line["event"] == "log"][-1]
    parameters = sum(t.numel() for t in load_file(folder / "model.safetensors").values())
    for said in (
        "| gaze, K=2 | 0.910 | 0.900 – 0.920 | 4,096 | 12.0 of 64.0 | complete |",
        "| mme.cambrian | 61.500 | 60.250 – 62.750 | 100 | 76.0 of 576.0 | INCOMPLETE: limited |",
        "| image: region, budget | 1×1×1, top_k = 2 |",
        "| KV entries per query, one image | 6 of 16 (37.5%) |",
        f"| optimizer steps, last loss | 2, {last['loss']:.4f} |",
        f"{parameters:,} parameters",
        lineage["weights"],
        lineage["data"]["recipe"],
        'from_pretrained("me/tiny")',
        "![Regions that generated tokens looked at](gaze.png)",
        "| records | `train.jsonl` |",
    ):
        assert said in text, said
    assert str(folder.parent) not in card, "no place of this machine"


def test_what_is_not_known_is_not_told(trained: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(trained / name, bare)
    card = model_card(bare, "me/tiny")
    assert "None were measured for this card." in card and "Not recorded." in card
    assert "gaze.png" not in card and "license" not in card


def test_scores_of_another_form_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("[1]", "{}", '{"a": 1}', '{"a": {"x": 1}}', "{"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"a\.json"):
            read_scores(path)


def test_dry_run_writes_the_card_and_uploads_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(folder), "--repo", "me/tiny", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "would push" in printed and "model.safetensors" in printed
    (left,) = [line for line in printed.splitlines() if line.startswith("left here")]
    assert "checkpoint-2" in left and "run_config.json" in left and "lineage.json" not in left
    (folder / "README.md").write_text("mine")
    assert not push_to_hub(folder, "me/tiny", dry_run=True).card_is_new
    assert (folder / "README.md").read_text() == "mine"


def test_folders_that_are_no_whole_model_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(json.dumps(SCORES))
    (folder / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="says something else"):
        push_to_hub(folder, "me/tiny", CardParts(read_scores(tmp_path / "scores.json")), dry_run=True)
    with pytest.raises(ValueError, match="no readable config.json"):
        push_to_hub(tmp_path, "me/tiny", dry_run=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(ValueError, match="auto_map"):
        push_to_hub(folder, "me/tiny", dry_run=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        push_to_hub(folder, "me/tiny", dry_run=True)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without context tokens, exported to both layouts."""
    root = tmp_path_factory.mktemp("dense")
    CambrianGazeForConditionalGeneration.from_preset("tiny", gaze={"num_context_tokens": 0}).save_pretrained(root / "a")
    CambrianGazeProcessor.from_preset("tiny").save_pretrained(root / "a")
    write_lineage(root / "a", "train, stage 2, step 7", [parent("language model", "Qwen/Qwen3-4B")])
    for layout in ("llava", "deepseek_vl"):
        export(layout, root / "a", root / layout)
    return root


@pytest.mark.parametrize(("layout", "exact"), [("llava", "one more encoder"), ("deepseek_vl", "The same tensors")])
def test_a_dense_export_gets_a_card_of_its_lineage(layout: str, exact: str, dense: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(dense / layout, tmp_path / layout))
    assert push_to_hub(folder, "me/flat", dry_run=True).card_is_new
    card = (folder / "README.md").read_text()
    own, of = read_lineage(folder)["weights"], read_lineage(dense / "a")["weights"]
    said = ("# flat", exact, "| exported from | `a` |", own, of, "train, stage 2, step 7", "K = all regions")
    assert not [text for text in said if text not in card]
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == ["Qwen/Qwen3-4B"]
    assert str(dense) not in card and "import cambrian_gaze" not in card


def test_a_model_of_another_type_needs_a_card_of_its_own(dense: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(dense / "llava", tmp_path / "llava"))
    (folder / "lineage.json").unlink()
    with pytest.raises(ValueError, match="'llava' model that no card can be made of.*write a README.md"):
        push_to_hub(folder, "me/flat", dry_run=True)
    (folder / "README.md").write_text("mine")
    assert "README.md" in push_to_hub(folder, "me/flat", dry_run=True).files


PULL = """
import cambrian_gaze, torch
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained("me/tiny")
processor = AutoProcessor.from_pretrained("me/tiny")
print(type(model).__name__, type(processor).__name__, float(sum(p.double().sum() for p in model.parameters())))
"""


@pytest.mark.slow
def test_push_and_pull_through_a_hub(folder: Path, tmp_path: Path) -> None:
    with serving() as hub:
        places = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HOME": str(tmp_path / "home")}
        environment = {**os.environ, **places, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test", "PYTHONPATH": str(ROOT)}
        push = ["-m", "cambrian_gaze.cli.main", "push", str(folder), "--repo", "me/tiny"]
        for command in (push, ["-c", PULL]):
            done = subprocess.run(
                [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path
            )
            assert done.returncode == 0, done.stderr
            if command is push:
                assert f"/me/tiny/commit/{COMMIT}" in done.stdout
        held = hub.repos["me/tiny"]
    assert {"config.json", "model.safetensors", "README.md", "lineage.json"} <= held.keys()
    assert not [name for name in held if name.endswith((".bin", ".pt", ".py", ".jsonl")) or "checkpoint" in name]
    assert held["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    told = json.loads(held["lineage.json"])
    assert list(told["data"]["files"]) == ["train.jsonl"] and told["weights"] == read_lineage(folder)["weights"]
    for name in sorted(held.keys() - {"model.safetensors"}):
        assert str(tmp_path.parent).encode() not in held[name], f"{name} holds a place of this machine"
    model, processor, total = done.stdout.split()
    assert (model, processor) == ("CambrianGazeForConditionalGeneration", "CambrianGazeProcessor")
    tensors = load_file(folder / "model.safetensors")
    assert float(total) == pytest.approx(float(sum(t.double().sum() for t in tensors.values())))
    assert not [line for line in hub.asked if line.endswith(".py")], "no code was asked for"


def test_pull_by_name_from_the_cache_without_a_network(folder: Path, tmp_path: Path) -> None:
    """As the hub's cache lies on disk; the tests run with HF_HUB_OFFLINE=1."""
    repo = tmp_path / "cache" / "models--me--tiny"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    for name in push_to_hub(folder, "me/tiny", dry_run=True).files:
        shutil.copy(folder / name, snapshot)
    model = AutoModelForImageTextToText.from_pretrained("me/tiny", cache_dir=tmp_path / "cache")
    expected = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
