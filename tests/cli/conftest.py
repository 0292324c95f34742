from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model with its processor. Untrained: what it answers means nothing."""
    from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor

    folder = tmp_path_factory.mktemp("tiny")
    CambrianGazeForConditionalGeneration.from_preset("tiny").save_pretrained(folder)
    CambrianGazeProcessor.from_preset("tiny").save_pretrained(folder)
    return folder


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "a page.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path
