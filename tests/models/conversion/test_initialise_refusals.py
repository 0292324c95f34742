"""Backbones that are refused, and copies that are interrupted: the reason is named and nothing is written."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cambrian_gaze import CambrianGazeProcessor
from tests.models._checkpoints import (
    Evil,
    make,
    write_language_model,
    write_siglip,
)


def test_a_missing_and_an_unexpected_key_are_named(backbone: dict, tmp_path: Path) -> None:
    write_language_model(tmp_path / "qwen3")
    write_siglip(tmp_path / "siglip")
    file = tmp_path / "siglip" / "model.safetensors"
    stored = load_file(file)
    stored["vision_model.post_layernorm.scale"] = stored.pop("vision_model.post_layernorm.weight")
    stored["vision_model.post_layernorm.bias"] = torch.zeros(3)
    save_file(stored, file)
    report = make({"root": tmp_path}, tmp_path / "model", dry_run=True)
    assert report.missing == ["model.vision_tower.post_layernorm.weight"]
    assert report.unexpected == ["vision tower: vision_model.post_layernorm.scale"]
    assert report.mismatched == ["model.vision_tower.post_layernorm.bias is (3,) in the file and (16,) in the model"]
    with pytest.raises(ValueError, match="1 missing: .*; 1 unexpected: .*; 1 of another shape"):
        make({"root": tmp_path}, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def tear(root: Path) -> None:
    file = sorted((root / "qwen3").glob("model-*"))[1]
    file.write_bytes(file.read_bytes()[:-64])


def lose(root: Path) -> None:
    sorted((root / "qwen3").glob("model-*"))[1].unlink()


def swap_kinds(root: Path) -> None:
    (root / "qwen3").rename(root / "other")
    (root / "siglip").rename(root / "qwen3")
    (root / "other").rename(root / "siglip")


def point_outside(root: Path) -> None:
    index = root / "qwen3" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = "../siglip/model.safetensors"
    index.write_text(json.dumps(content))


def misplace(root: Path) -> None:
    index = root / "qwen3" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    files = sorted(set(content["weight_map"].values()))
    content["weight_map"]["model.norm.weight"] = files[files[0] == content["weight_map"]["model.norm.weight"]]
    index.write_text(json.dumps(content))


def list_other_hash(root: Path) -> None:
    (root / "siglip" / "SHA256SUMS").write_text(f"{'0' * 64}  model.safetensors\n")


def poison(root: Path) -> None:
    for file in (root / "siglip").glob("model*"):
        file.unlink()
    (root / "siglip" / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Evil(root / "pwned")}, protocol=2))


def pickle_objects(root: Path) -> None:
    for file in (root / "siglip").glob("model*"):
        file.unlink()
    torch.save({"w": {"nested": 1}}, root / "siglip" / "pytorch_model.bin")


def disguise(root: Path) -> None:
    (root / "siglip" / "model.safetensors").write_bytes(pickle.dumps({"w": Evil(root / "pwned")}, protocol=2))


def naflex(root: Path) -> None:
    config = root / "siglip" / "config.json"
    config.write_text(json.dumps({"model_type": "siglip2"}))


def fill_output(root: Path) -> None:
    (root / "model").mkdir()
    (root / "model" / "mine.txt").write_text("mine")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (tear, "cannot be read as safetensors"),
        (lose, "lacks 1 of"),
        (swap_kinds, "not a language model"),
        (point_outside, "names files outside its folder"),
        (misplace, "the index of .* and its files disagree"),
        (list_other_hash, "has the SHA-256"),
        (poison, "is refused: it cannot be read with weights_only"),
        (pickle_objects, "must hold a dictionary of tensors"),
        (disguise, "cannot be read as safetensors"),
        (naflex, "NaFlex"),
        (fill_output, "exists and is not an empty folder"),
    ],
)
def test_spoilt_files_are_refused_and_nothing_is_written(
    spoil: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    write_language_model(tmp_path / "qwen3")
    write_siglip(tmp_path / "siglip")
    spoil(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=said):
        make({"root": tmp_path}, tmp_path / "model")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupted_copy_leaves_nothing(backbone: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self, *args, **kwargs) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CambrianGazeProcessor, "save_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        make(backbone, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
