"""A vision tower of one's own: registered, a model is made around it, saved, loaded, and it sees."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.models.conversion.initialise import initialise
from cambrian_gaze.models.tower import TowerFamily, register_tower, registry
from tests.models._checkpoints import GAZE, write_language_model
from tests.models.conftest import ask, noise


class PatchConfig(PreTrainedConfig):
    model_type = "newcomer_patches"
    hidden_size: int = 16
    num_hidden_layers: int = 1
    image_size: int = 32
    patch_size: int = 8


class PatchTower(PreTrainedModel):
    """A toy: a class token, and one linear map of each patch."""

    config_class = PatchConfig
    base_model_prefix = "newcomer_patches"

    def __init__(self, config: PatchConfig) -> None:
        super().__init__(config)
        self.patches = nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutput:
        patches = self.patches(pixel_values).flatten(2).mT
        return BaseModelOutput(last_hidden_state=torch.cat([patches.mean(1, keepdim=True), patches], dim=1))


PATCHES = TowerFamily(
    model_type="newcomer_patches",
    title="one linear map of each patch",
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.25, 0.25, 0.25),
    leading_tokens=1,
)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> TowerFamily:
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    AutoConfig.register("newcomer_patches", PatchConfig, exist_ok=True)
    AutoModel.register(PatchConfig, PatchTower, exist_ok=True)
    register_tower(PATCHES)
    return PATCHES


def test_a_model_is_made_around_it(toy: TowerFamily, tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = PatchTower(PatchConfig()).eval()
    given.save_pretrained(tmp_path / "tower")
    write_language_model(tmp_path / "llm")
    initialise(tmp_path / "model", str(tmp_path / "llm"), str(tmp_path / "tower"), overrides=GAZE, progress=False)

    model = CambrianGazeForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        wanted = model.model.mm_projector(given(pixels).last_hidden_state[:, 1:], (4, 4))
        assert torch.equal(model.get_image_features(pixels), wanted), "its weights, without the class token"

    processor = CambrianGazeProcessor.from_pretrained(tmp_path / "model")
    assert list(processor.image_processor.image_std) == [0.25] * 3
    inputs = processor.apply_chat_template(ask(noise(0)), tokenize=True, add_generation_prompt=True)
    output = model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 2
