"""The tiny model in a folder."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model_folder(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    for part in tiny:
        part.save_pretrained(folder)
    return folder
