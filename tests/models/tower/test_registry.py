"""Towers that are not known, and those that users add."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)
from transformers.modeling_outputs import BaseModelOutput

from cambrian_gaze import CambrianGazeConfig, CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.models import tower
from cambrian_gaze.models.conversion.initialise import initialise
from cambrian_gaze.models.tower import TowerFamily, register_tower
from cambrian_gaze.models.tower.published import SIGLIP
from tests.models._checkpoints import GAZE, VISION, randomise, write_language_model
from tests.models.conftest import ask, noise

KNOWN = "known: SigLIP or SigLIP2 with a fixed resolution .*, CLIP .*, DINOv2 .*--plugin FILE.py, or .*register_tower"


def test_what_is_not_known_is_told_what_is(tmp_path: Path) -> None:
    ViTModel(ViTConfig(**VISION)).save_pretrained(tmp_path / "vit")
    write_language_model(tmp_path / "llm")
    with pytest.raises(ValueError, match=f"vit is a 'vit' model, not a vision tower .*{KNOWN}"):
        initialise(tmp_path / "model", str(tmp_path / "llm"), str(tmp_path / "vit"))
    for kind in ("vit", "no_such_tower"):
        with pytest.raises(ValueError, match=f"the vision tower is a '{kind}' model.*{KNOWN}"):
            CambrianGazeConfig(vision_config={"model_type": kind})
    with pytest.raises(ValueError, match="the NaFlex variant of SigLIP2 is another architecture; known: "):
        CambrianGazeConfig(vision_config={"model_type": "siglip2"})


def test_the_example_of_the_docs_adds_a_tower(registered: dict, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", tower.__doc__, re.DOTALL)
    exec(example, {})
    sizes = {k: v for k, v in VISION.items() if k != "intermediate_size"}
    given = randomise(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes, num_register_tokens=3)), 1)
    given.save_pretrained(tmp_path / "tower")
    write_language_model(tmp_path / "llm")
    initialise(tmp_path / "model", str(tmp_path / "llm"), str(tmp_path / "tower"), overrides=GAZE, progress=False)
    model = CambrianGazeForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        wanted = model.model.mm_projector(given(pixels).last_hidden_state[:, 4:], (4, 4))
        assert torch.equal(model.get_image_features(pixels), wanted)


class ConvConfig(PreTrainedConfig):
    model_type = "test_conv_tower"
    hidden_size: int = 16
    num_hidden_layers: int = 1
    image_size: int = 32
    patch_size: int = 8


class ConvTower(PreTrainedModel):
    """A tower that transformers does not have: one convolution, whose output is a map."""

    config_class = ConvConfig
    base_model_prefix = "conv_tower"

    def __init__(self, config: ConvConfig) -> None:
        super().__init__(config)
        self.patches = nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.patches(pixel_values))


def read_map(conv: nn.Module, pixels: torch.Tensor, layer: int | None) -> torch.Tensor:
    return conv(pixels).last_hidden_state.flatten(2).transpose(1, 2)


def test_a_tower_of_ones_own_classes(registered: dict, tmp_path: Path) -> None:
    family = TowerFamily("test_conv_tower", "one convolution", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), read=read_map)
    with pytest.raises(ValueError, match="transformers knows no model type 'test_conv_tower'; .* AutoConfig.register"):
        register_tower(family)
    AutoConfig.register("test_conv_tower", ConvConfig, exist_ok=True)
    AutoModel.register(ConvConfig, ConvTower, exist_ok=True)
    register_tower(family)
    register_tower(family)
    given = randomise(ConvTower(ConvConfig()))
    given.save_pretrained(tmp_path / "tower")
    write_language_model(tmp_path / "llm")
    initialise(tmp_path / "model", str(tmp_path / "llm"), str(tmp_path / "tower"), overrides=GAZE, progress=False)
    model = CambrianGazeForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    processor = CambrianGazeProcessor.from_pretrained(tmp_path / "model")
    assert list(processor.image_processor.image_std) == [0.25] * 3
    inputs = processor.apply_chat_template(ask(noise(0)), tokenize=True, add_generation_prompt=True)
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] == inputs["input_ids"].shape[1] + 2
    assert torch.equal(model.model.vision_tower.patches.weight, given.patches.weight)


def test_one_kind_of_tower_has_one_declaration(registered: dict) -> None:
    other = TowerFamily("siglip_vision_model", "mine", (0, 0, 0), (1, 1, 1))
    with pytest.raises(ValueError, match="'siglip_vision_model' is declared already, as 'SigLIP or SigLIP2"):
        register_tower(other)
    register_tower(SIGLIP)


def test_a_wrong_number_of_leading_tokens_is_said(registered: dict) -> None:
    register_tower(TowerFamily("vit", "ViT", (0.5,) * 3, (0.5,) * 3))
    model = CambrianGazeForConditionalGeneration.from_preset("tiny", vision_config={"model_type": "vit", **VISION})
    with pytest.raises(ValueError, match=r"\(ViT\) gives 17 tokens, but is declared to give 0 and one for each of 16"):
        model.get_image_features(torch.randn(1, 3, 32, 32))
