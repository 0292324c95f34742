"""Towers of the families that come with the package: from a checkpoint to answers, and what of them is trained."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPImageProcessor

from cambrian_gaze import CambrianGazeConfig, CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.cli.main import main
from cambrian_gaze.models.conversion.initialise import initialise
from tests.models._checkpoints import GAZE, VISION, randomise, write_clip, write_dinov2, write_language_model
from tests.models.conftest import ask, noise

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PUBLISHED_NAMES = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
PUBLISHED_NAMES |= {"o_proj": "output.dense"}
"""Parts of DINOv2's names in memory and in its published checkpoints."""


def clips_patches(tower: torch.nn.Module, pixels: Tensor) -> Tensor:
    """As LLaVA-1.5: the last layer but one, without the class token."""
    return tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]


def dinos_patches(tower: torch.nn.Module, pixels: Tensor) -> Tensor:
    return tower(pixels).last_hidden_state[:, 1:]


TOWERS = {
    "clip": (write_clip, clips_patches, -2, CLIP_MEAN, CLIP_STD),
    "dinov2": (write_dinov2, dinos_patches, None, IMAGENET_MEAN, IMAGENET_STD),
}


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    write_language_model(folder)
    return folder


def make(language_model: Path, root: Path, write: Callable, whole: bool = True, **options):
    """A folder of a model around a tower that `write` writes; and the tower."""
    tower = write(root / "tower", whole)
    options = {"overrides": GAZE, "progress": False, **options}
    report = initialise(root / "model", str(language_model), str(root / "tower"), **options)
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    return root / "model", tower.eval()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", TOWERS)
def test_its_patches_become_the_visual_tokens(kind: str, whole: bool, language_model: Path, tmp_path: Path) -> None:
    write, patches, layer, mean, std = TOWERS[kind]
    folder, tower = make(language_model, tmp_path, write, whole)
    model = CambrianGazeForConditionalGeneration.from_pretrained(folder)
    assert model.config.vision_feature_layer == layer and model.config.grid == (4, 4)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model.model.mm_projector(patches(tower, pixels), (4, 4))
        assert torch.equal(model.get_image_features(pixels), wanted)
    processor = CambrianGazeProcessor.from_pretrained(folder)
    picture = noise(0, (32, 32))
    made = processor(images=[picture], text="<image>")["pixel_values"][0]
    values = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1) / 255.0)
    by_hand = (values - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(made, by_hand.float(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", TOWERS)
def test_it_answers_and_comes_back_bit_by_bit(kind: str, language_model: Path, tmp_path: Path) -> None:
    folder, _ = make(language_model, tmp_path, TOWERS[kind][0])
    model = CambrianGazeForConditionalGeneration.from_pretrained(folder).eval()
    processor = CambrianGazeProcessor.from_pretrained(folder)
    inputs = processor.apply_chat_template(ask(noise(0), noise(1)), tokenize=True, add_generation_prompt=True)
    answer = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    again = CambrianGazeForConditionalGeneration.from_pretrained(tmp_path / "again").eval()
    state, other = model.state_dict(), again.state_dict()
    assert state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)
    inputs = CambrianGazeProcessor.from_pretrained(tmp_path / "again").apply_chat_template(
        ask(noise(0), noise(1)), tokenize=True, add_generation_prompt=True
    )
    assert torch.equal(again.generate(**inputs, max_new_tokens=4, do_sample=False), answer)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("kind", ["clip_vision_model", "dinov2"])
def test_weights_are_saved_under_the_names_in_memory(kind: str, tmp_path: Path) -> None:
    """By these, resuming and converting read the files."""
    vision = {"model_type": kind, **{k: v for k, v in VISION.items() if kind != "dinov2" or k != "intermediate_size"}}
    model = CambrianGazeForConditionalGeneration.from_preset("tiny", vision_config=vision)
    for _ in range(2):
        model.save_pretrained(tmp_path)
        assert set(load_file(tmp_path / "model.safetensors")) == model.state_dict().keys()
        model = CambrianGazeForConditionalGeneration.from_pretrained(tmp_path)


def test_weights_under_the_names_of_published_checkpoints_load(language_model: Path, tmp_path: Path) -> None:
    folder, _ = make(language_model, tmp_path, write_dinov2)
    model = CambrianGazeForConditionalGeneration.from_pretrained(folder)
    file = folder / "model.safetensors"
    renamed = {}
    for name, tensor in load_file(file).items():
        for here, stored in PUBLISHED_NAMES.items():
            name = name.replace(f".attention.{here}", f".attention.{stored}") if "vision_tower" in name else name
        renamed[name] = tensor
    assert sum("attention.attention.query" in name for name in renamed) == 6
    save_file(renamed, file, metadata={"format": "pt"})
    again = CambrianGazeForConditionalGeneration.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("layer", [None, -1, -2])
@pytest.mark.parametrize("kind", ["siglip_vision_model", "clip_vision_model", "dinov2"])
def test_what_no_feature_depends_on_is_known(kind: str, layer: int | None) -> None:
    vision = {k: v for k, v in VISION.items() if kind != "dinov2" or k != "intermediate_size"}
    config = CambrianGazeConfig(vision_config={"model_type": kind, **vision}, vision_feature_layer=layer)
    tower = randomise(config.tower_family.build(config.vision_config))
    for part in config.tower_family.unused(tower, layer):
        part.requires_grad_(False)
    frozen = {name for name, p in tower.named_parameters() if not p.requires_grad}
    config.tower_family.features(tower, torch.randn(1, 3, 32, 32), layer).sum().backward()
    assert {name for name, p in tower.named_parameters() if p.grad is None} == frozen


@pytest.mark.parametrize("kind", TOWERS)
def test_gradients_reach_all_that_is_new(kind: str, language_model: Path, tmp_path: Path) -> None:
    folder, _ = make(language_model, tmp_path, TOWERS[kind][0])
    model = CambrianGazeForConditionalGeneration.from_pretrained(folder).train()
    processor = CambrianGazeProcessor.from_pretrained(folder)
    inputs = processor.apply_chat_template(ask(noise(0)), tokenize=True)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    for name in ("model.gaze.context_tokens", "model.mm_projector.0.weight"):
        assert model.get_parameter(name).grad.abs().sum() > 0
    # A batch without pictures leaves no parameter without a gradient that one with pictures has.
    had = {name for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    inputs = processor.apply_chat_template(ask(), tokenize=True)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == had


def test_the_statistics_beside_a_tower_come_first(language_model: Path, tmp_path: Path) -> None:
    def with_statistics(folder: Path, whole: bool) -> torch.nn.Module:
        tower = write_clip(folder, whole)
        CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(folder)
        return tower

    folder, _ = make(language_model, tmp_path, with_statistics)
    images = CambrianGazeProcessor.from_pretrained(folder).image_processor
    assert (list(images.image_mean), list(images.image_std)) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    file = tmp_path / "tower" / "preprocessor_config.json"
    for wrong, said in (
        ([0.4, 0.0, 0.6], "holds a zero"),
        ([0.5], "three numbers"),
        ([0.5, 0.5, "x"], "three numbers"),
    ):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"image_std": wrong}))
        with pytest.raises(ValueError, match=said):
            initialise(tmp_path / "other", str(language_model), str(tmp_path / "tower"), overrides=GAZE)
    assert not (tmp_path / "other").exists()


def test_the_command_takes_it(language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "tower", image_size=48)
    parts = ["--llm", str(language_model), "--vision", str(tmp_path / "tower")]
    overrides = json.dumps({"vision_feature_layer": None})
    assert main(["init", *parts, "--out", str(tmp_path / "model"), "--model_overrides", overrides]) == 0
    assert "CLIP's text tower and loss" in capsys.readouterr().out
    config = CambrianGazeConfig.from_pretrained(tmp_path / "model")
    assert config.vision_feature_layer is None and config.grid == (6, 6)


def test_fused_weights_are_refused(language_model: Path, tmp_path: Path) -> None:
    write_dinov2(tmp_path / "tower", use_swiglu_ffn=True)
    with pytest.raises(ValueError, match="tower cannot be read: two weights of its MLP are stored as one"):
        initialise(tmp_path / "model", str(language_model), str(tmp_path / "tower"))
