"""Fixtures of the data tests."""

import pytest
from transformers import PreTrainedTokenizerFast

from tests.data._stand_ins import StandInProcessor, tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture
def processor(tokenizer: PreTrainedTokenizerFast) -> StandInProcessor:
    return StandInProcessor(tokenizer)
