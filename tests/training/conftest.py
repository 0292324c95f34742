"""Data of the training tests."""

from pathlib import Path

import pytest

from tests.training._runs import write_data


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSONL of 10 records with images and 2 without."""
    return write_data(tmp_path_factory.mktemp("pages"), list("iitiiiitiiii"))
