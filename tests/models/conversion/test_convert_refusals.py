"""Checkpoints that cannot be converted from or to Cambrian: the reason is named and nothing is written."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.models.conversion.initialise import initialise
from cambrian_gaze.models.conversion.shards import Shards
from cambrian_gaze.models.conversion.to_cambrian import to_cambrian
from tests.models._checkpoints import (
    Evil,
    change_config,
    convert,
    write_language_model,
    write_siglip,
    write_upstream,
    write_weights,
)


def add_tensor(name: str) -> Callable[[Path], None]:
    def add(up: Path) -> None:
        shards = Shards(up)
        write_weights(up, {name: torch.zeros(2)} | {known: shards.tensor(known) for known in shards})

    return add


def remove_tensor(up: Path) -> None:
    shards = Shards(up)
    write_weights(up, {name: shards.tensor(name) for name in shards if name != "model.mm_projector.2.bias"})


def poison(up: Path) -> None:
    for file in up.glob("*.safetensors*"):
        file.unlink()
    torch.save({"model.norm.weight": Evil(up / "pwned")}, up / "pytorch_model.bin")


def tear(up: Path) -> None:
    file = next(up.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (change_config(mm_projector_type="sva"), "SVA"),
        (change_config(mm_projector_type="mlp3x_gelu"), "only 'mlp2x_gelu'"),
        (change_config(mm_vision_tower_aux_list=["a", "b"]), "has 2 vision towers"),
        (change_config(mm_use_im_start_end=True), "wraps images into two tokens"),
        (change_config(model_type="cambrian_llama"), "do not speak ChatML"),
        (change_config(mm_vision_select_layer=None), "does not say mm_vision_select_layer"),
        (add_tensor("model.vision_sampler_0.layers.0.norm.weight"), "spatial vision aggregator .* has no grid"),
        (add_tensor("model.mm_projector_aux_0.0.weight"), "spatial vision aggregator"),
        (add_tensor("model.vision_query"), "spatial vision aggregator"),
        (add_tensor("model.vision_tower_aux_list.1.vision_tower.x"), "second tower"),
        (add_tensor("model.vision_tower_aux_list.0.vision_tower.blocks.0.attn.qkv.weight"), "open_clip and timm"),
        (add_tensor("model.speech_projector.weight"), "1 unexpected: upstream: model.speech_projector.weight"),
        (remove_tensor, "1 missing: model.mm_projector.2.bias"),
        (poison, "is refused: it cannot be read with weights_only"),
        (tear, "cannot be read as safetensors"),
    ],
)
def test_what_cannot_be_converted_is_refused(
    spoil: Callable[[Path], None], said: str, siglip: str, tmp_path: Path
) -> None:
    write_upstream(tmp_path / "up")
    spoil(tmp_path / "up")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=said):
        convert(tmp_path, siglip)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cambrian_cannot_express_is_refused(tmp_path: Path) -> None:
    write_language_model(tmp_path / "llm")
    write_siglip(tmp_path / "siglip")
    for name, overrides in (("conv", {"mm_projector_type": "conv3x3_mlp2x_gelu"}), ("qwen3", {})):
        overrides["gaze"] = dataclasses.asdict(GazeConfig()) | {"num_context_tokens": 0}
        initialise(tmp_path / name, str(tmp_path / "llm"), str(tmp_path / "siglip"), overrides=overrides)
    with pytest.raises(ValueError, match="has no projector 'conv3x3_mlp2x_gelu'"):
        to_cambrian(tmp_path / "conv", tmp_path / "up")
    with pytest.raises(ValueError, match="no architecture with a qwen3 decoder; .* --model_type"):
        to_cambrian(tmp_path / "qwen3", tmp_path / "up", tower="small/siglip")
    assert not (tmp_path / "up").exists()
