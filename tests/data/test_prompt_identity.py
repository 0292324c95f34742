"""What is asked has the tokens of what was trained: a record, and the same content as messages to the processor."""

import pytest
from PIL import Image

from cambrian_gaze import CambrianGazeProcessor
from cambrian_gaze.data.conversation import messages_from_record
from cambrian_gaze.data.encode import encode_conversation
from cambrian_gaze.data.records.records import Record
from tests.data._stand_ins import turns


@pytest.fixture(scope="module")
def processor():
    return CambrianGazeProcessor.from_preset("tiny")


PICTURE = Image.new("RGB", (8, 8))
IMAGE = {"type": "image", "image": PICTURE}
VIDEO = {"type": "video", "video": [PICTURE] * 2}


def said(text):
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("questions", "asked"),
    [
        (["<image>\nWhat?"], [[IMAGE, said("What?")]]),
        (["What?\n<image>"], [[said("What?"), IMAGE]]),
        (["<image>\n<image>\nWhich?"], [[IMAGE, IMAGE, said("Which?")]]),
        (["<image><image>Which?"], [[IMAGE, IMAGE, said("Which?")]]),
        (["A: <image> B: <image> Which?"], [[said("A: "), IMAGE, said(" B: "), IMAGE, said(" Which?")]]),
        (["<video>\nWhat happens?"], [[VIDEO, said("What happens?")]]),
        (["<image>\nOne?", "Two?"], [[IMAGE, said("One?")], [said("Two?")]]),
        (["One?", "Two? <image>"], [[said("One?")], [said("Two?"), IMAGE]]),
        (["What does the tag mean?"], [[said("What does the tag mean?")]]),
    ],
)
def test_a_record_and_its_messages_have_the_same_ids(processor, questions, asked):
    texts = [text for question in questions for text in (question, "An answer.")]
    images = ["i"] * sum(question.count("<image>") for question in questions)
    video = "v" if any("<video>" in question for question in questions) else None
    messages = messages_from_record(Record("x", turns(*texts), images, video))[:-1]
    grids = [(1, *processor.grid_hw)] * len(images) + [(2, *processor.grid_hw)] * (video is not None)
    trained = encode_conversation(
        messages, processor.tokenizer, grids, processor.num_context_tokens, add_generation_prompt=True
    )
    chat = []
    for content in asked:
        chat += [{"role": "user", "content": content}, {"role": "assistant", "content": "An answer."}]
    out = processor.apply_chat_template(chat[:-1], add_generation_prompt=True, tokenize=True)
    assert out["input_ids"][0].tolist() == trained["input_ids"]
    assert out["mm_token_type_ids"][0].tolist() == trained["mm_token_type_ids"]
