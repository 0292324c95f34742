import pytest

from tests.data.mixture._recipes import data


@pytest.fixture
def folder(tmp_path):
    data(tmp_path, "a.jsonl", 10)
    data(tmp_path, "b.jsonl", 40)
    return tmp_path
