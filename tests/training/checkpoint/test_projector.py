"""The hand-off from stage 1 to stage 2: what is in the file, and every way in which it may not be what is wanted."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import cambrian_gaze
from cambrian_gaze import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.conversion.shards import fingerprint
from cambrian_gaze.training.checkpoint.projector import METADATA, export_projector, load_projector, read_export


def model(**overrides) -> CambrianGazeForConditionalGeneration:
    return CambrianGazeForConditionalGeneration.from_preset("tiny", **overrides)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(str(path), framework="pt") as file:
        return file.metadata()


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return export_projector(model(), tmp_path / "mm_projector.safetensors", step=7)


def test_the_file_says_what_it_is(export: Path) -> None:
    tensors, facts = read_export(export)
    assert facts["step"] == 7
    assert facts["fingerprint"] == fingerprint(tensors)
    assert facts["versions"]["cambrian_gaze"] == cambrian_gaze.__version__
    assert set(facts["versions"]) == {"cambrian_gaze", "torch", "transformers"}
    assert facts["config"]["vision_config"]["patch_size"] == 8
    assert facts["config"]["gaze"]["image"]["top_k"] == 2


def test_the_fingerprint_is_of_names_types_shapes_and_values() -> None:
    tensors = {"a": torch.arange(4.0), "b": torch.ones(2, 2)}
    changed = [
        {"a": torch.arange(4.0), "c": torch.ones(2, 2)},
        {"a": torch.arange(4.0), "b": torch.ones(4)},
        {"a": torch.arange(4.0), "b": torch.ones(2, 2).bfloat16()},
        {"a": torch.arange(4.0), "b": torch.ones(2, 2) + torch.eye(2) * 1e-6},
    ]
    found = {fingerprint(tensors), *(fingerprint(other) for other in changed)}
    assert len(found) == 5
    assert fingerprint(dict(reversed(tensors.items()))) == fingerprint(tensors)


def test_a_changed_file_is_refused(export: Path) -> None:
    tensors, facts = load_file(export), metadata(export)
    tensors["model.gaze.context_tokens"][0, 0] += 1e-3
    save_file(tensors, export, metadata=facts)
    target = model()
    before = fingerprint(dict(target.state_dict()))
    with pytest.raises(ValueError, match="has the fingerprint .* damaged or changed"):
        load_projector(target, export)
    assert fingerprint(dict(target.state_dict())) == before


def test_a_file_without_a_fingerprint_is_taken_with_a_word(export: Path) -> None:
    save_file(load_file(export), export)
    assert load_projector(model(), export) == [f"{export} carries no fingerprint: its content was not verified"]


@pytest.mark.parametrize("content", [b"", b"\x80\x04}.", b"\xff" * 64])
def test_what_is_no_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mm_projector.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_projector(model(), path)


VISION = {"model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 4, "image_size": 64, "patch_size": 8}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"mm_projector_type": "avgpool2_mlp2x_gelu"}, "mm_projector_type is 'mlp2x_gelu' in the file and 'avgpool2"),
        ({"vision_config": {**VISION, "image_size": 128}}, "image_size is 64 in the file and 128 here"),
        ({"vision_config": {**VISION, "num_hidden_layers": 3}}, "vision_layers is 2 in the file and 3 here"),
        ({"vision_feature_layer": -2}, "vision_feature_layer is None in the file and -2 here"),
        ({"vision_config": {**VISION, "hidden_size": 32}}, r"is \(96, 64\) in the file and \(96, 32\) in the model"),
    ],
)
def test_equal_shapes_are_not_enough(overrides: dict, said: str, export: Path) -> None:
    with pytest.raises(ValueError, match=said):
        load_projector(model(**overrides), export)


def test_another_decoder_is_said(export: Path) -> None:
    text = model().config.text_config.to_dict() | {"num_hidden_layers": 1, "layer_types": None}
    messages = load_projector(model(text_config=text), export)
    assert messages == [f"{export} was trained with another decoder: decoder_layers is 3 in the file and 1 here"]


def test_facts_of_an_older_file_are_enough(export: Path) -> None:
    facts = json.loads(metadata(export)["cambrian_gaze"])
    older = {key: facts[key] for key in ("mm_projector_type", "vision_hidden_size", "hidden_size")}
    save_file(load_file(export), export, metadata={"cambrian_gaze": json.dumps(older)})
    assert len(load_projector(model(), export)) == 1


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda at: at.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_waited_for(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "it.safetensors")
    with pytest.raises(ValueError, match=r"it\.safetensors is no regular file"):
        read_export(tmp_path / "it.safetensors")


@pytest.mark.parametrize("facts", ["[1]", "3", "{", '{"fingerprint": 3}', '{"fingerprint": ["a"]}', "[" * 10_000])
def test_facts_that_are_none(facts: str, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "it.safetensors", metadata={METADATA: facts})
    with pytest.raises(ValueError, match=r"it\.safetensors cannot be read"):
        read_export(tmp_path / "it.safetensors")
