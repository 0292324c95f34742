"""What is asked has the tokens of training, whichever way a question comes."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cambrian_gaze.data.conversation import messages_from_record
from cambrian_gaze.data.encode import encode_conversation
from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.data.media.image_files import MediaError
from cambrian_gaze.data.records.records import Record, parse_record
from cambrian_gaze.evaluation.lmms.messages import loaded
from cambrian_gaze.evaluation.prompts import (
    beside_pictures,
    media_identity,
    prompt_messages,
    question_text,
    reference,
    with_media,
)

SAMPLING = FrameSampling()


def record(question: str, **media: Any) -> Record:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "A page."}]
    return parse_record({"id": 1, "conversations": turns, **media}, "rows.jsonl", 1)


def trained(one: Record, processor: Any, frames: int) -> list[int]:
    """The tokens up to the answer, as training has them."""
    grids = [(frames, *processor.grid_hw)] if one.video else [(1, *processor.grid_hw)] * len(one.images)
    sample = encode_conversation(messages_from_record(one), processor.tokenizer, grids, processor.num_context_tokens)
    return sample["input_ids"][: next(i for i, label in enumerate(sample["labels"]) if label != -100)]


def ids(processor: Any, messages: list[dict[str, Any]]) -> list[int]:
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)["input_ids"][0].tolist()


@pytest.fixture
def media(tmp_path: Path) -> Path:
    (tmp_path / "film").mkdir()
    for name in ("a.png", "b.png", "film/0.png", "film/1.png"):
        Image.new("RGB", (64, 48), (9, 99, 9)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("question", ["<image>\nWhat?", "<image>What?", "What?\n<image>", "What?"])
@pytest.mark.parametrize("images", [["a.png"], ["a.png", "b.png"]])
def test_records_and_tasks_ask_as_training_did(tiny, media: Path, question: str, images: list[str]) -> None:
    _, processor = tiny
    question = question.replace("<image>", "<image>\n" * (len(images) - 1) + "<image>")
    one = record(question, image=images)
    expected = trained(one, processor, 0)
    assert ids(processor, with_media(prompt_messages(one), one, media, SAMPLING)) == expected
    task = [{"type": "image", "url": str(media / name)} for name in images] + [{"type": "text", "text": "What?"}]
    assert ids(processor, loaded([{"role": "user", "content": task}], SAMPLING)) == expected


def test_a_video_too(tiny, media: Path) -> None:
    _, processor = tiny
    one = record("<video>\nWhat?", video="film")
    expected = trained(one, processor, 2)
    assert ids(processor, with_media(prompt_messages(one), one, "nowhere", SAMPLING, media)) == expected
    task = [{"type": "video", "url": str(media / "film")}, {"type": "text", "text": "What?"}]
    assert ids(processor, loaded([{"role": "user", "content": task}], SAMPLING)) == expected


def test_question_and_reference_are_those_of_the_last_turn() -> None:
    turns = [
        {"from": "human", "value": "<image>\nFirst?"}, {"from": "gpt", "value": "One."},
        {"from": "human", "value": "Second?"}, {"from": "gpt", "value": "Two."},
    ]  # fmt: skip
    one = parse_record({"id": 1, "image": "a.png", "conversations": turns}, "rows.jsonl", 1)
    assert (question_text(prompt_messages(one)), reference(one)) == ("Second?", "Two.")
    asked = parse_record({"id": 1, "image": "a.png", "conversations": turns[:3]}, "rows.jsonl", 1)
    assert (question_text(prompt_messages(asked)), reference(asked)) == ("Second?", None)


@pytest.mark.parametrize("path", ["gone.png", "../outside.png"])
def test_media_that_cannot_be_had_are_named_with_file_and_row(media: Path, path: str) -> None:
    (media.parent / "outside.png").write_bytes((media / "a.png").read_bytes())
    one = record("<image>\nWhat?", image=path)
    for call in (
        lambda: media_identity(one, media, SAMPLING),
        lambda: with_media(prompt_messages(one), one, media, SAMPLING),
    ):
        with pytest.raises(MediaError, match=r"rows.jsonl, row 1: .*png"):
            call()


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("<image>\nWhat is it?", "What is it?"),
        ("<image><video>\nWhat?", "What?"),
        ("What?\n<image>\n<image>", "What?"),
        ("<image> or <image>: which?", "<image> or <image>: which?"),
        ("No picture", "No picture"),
    ],
)
def test_a_question_beside_its_pictures(text: str, read: str) -> None:
    assert beside_pictures(text) == read
