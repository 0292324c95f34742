"""The tiny dense model, its processor, and a batch of prompts."""

import pytest

from tests.baselines._policies import encode, make_model, make_processor


@pytest.fixture(scope="session")
def model():
    return make_model()


@pytest.fixture(scope="session")
def processor():
    return make_processor()


@pytest.fixture(scope="session")
def batch(processor):
    """Two rows of unequal length, 1 + 2 images."""
    return encode(processor, (0, "read B3"), (1, 2, "How many of each, and where are they?"))
