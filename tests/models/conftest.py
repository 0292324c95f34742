"""A tiny model with spread-out logits, its processor, and pictures of noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from tests.models._checkpoints import write_language_model, write_siglip


def noise(number: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def ask(*pictures, text: str = "read B3") -> list[dict]:
    content = [{"type": "image", "image": picture} for picture in pictures]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


@pytest.fixture(scope="session")
def processor() -> CambrianGazeProcessor:
    return CambrianGazeProcessor.from_preset("tiny")


def make_model(**overrides) -> CambrianGazeForConditionalGeneration:
    torch.manual_seed(0)
    model = CambrianGazeForConditionalGeneration.from_preset("tiny", **overrides).eval()
    with torch.no_grad():
        # A head of unit scale: greedy answers that depend on what was seen, instead of one token for ever.
        model.lm_head.weight.normal_()
    return model


@pytest.fixture(scope="session")
def model() -> CambrianGazeForConditionalGeneration:
    return make_model()


@pytest.fixture(scope="session")
def batch(processor):
    """Two rows of unequal length, 2 + 1 images, left-padded."""
    rows = [ask(noise(0), noise(1), text="compare"), ask(noise(2), text="hello there, how are you today?")]
    return processor.apply_chat_template(rows, tokenize=True, add_generation_prompt=True)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Folders and models of two language models and a SigLIP."""
    root = tmp_path_factory.mktemp("backbones")
    found: dict[str, object] = {"root": root}
    for kind in ("qwen3", "qwen2"):
        found[kind] = write_language_model(root / kind, kind)
    found["siglip"] = write_siglip(root / "siglip")
    return found


@pytest.fixture
def siglip(tmp_path: Path) -> str:
    """The folder of a tower."""
    write_siglip(tmp_path / "siglip")
    return str(tmp_path / "siglip")
