"""The tokenizer of preset "tiny": every string round-trips, and the files that ship are those that the script makes."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cambrian_gaze
from cambrian_gaze.quickstart.task import ADDRESSES, NUMBER_WORDS
from cambrian_gaze.quickstart.tokenizer import SPECIAL_TOKENS, VOCABULARY_SIZE, build_tokenizer

SHIPPED = Path(cambrian_gaze.__file__).parent / "assets" / "tiny"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(SHIPPED)


def test_shipped_files_are_reproduced(tmp_path):
    build_tokenizer().save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (SHIPPED / "tokenizer.json").read_bytes()


def test_special_tokens_take_the_last_ids(tokenizer):
    assert len(tokenizer) == VOCABULARY_SIZE
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(VOCABULARY_SIZE - len(SPECIAL_TOKENS), VOCABULARY_SIZE))
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_round_trips(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


def test_addresses_and_digits_are_single_tokens(tokenizer):
    for word in [*(f" {address}" for address in ADDRESSES), *(f" {digit}" for digit in range(10)), " _"]:
        assert len(tokenizer(word).input_ids) == 1, word
    for word in NUMBER_WORDS:
        assert len(tokenizer(f" {word}").input_ids) == 1, word
    assert len(tokenizer("1234").input_ids) == 4


def test_a_question_is_tokenised_as_a_reader_would(tokenizer):
    ids = tokenizer("<|im_start|>assistant\nRead B3 7 A1 4<|im_end|>").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "<|im_start|>", "assistant", "Ċ", "Read", "ĠB3", "Ġ7", "ĠA1", "Ġ4", "<|im_end|>",
    ]  # fmt: skip
