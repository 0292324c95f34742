"""Messages to segments, and records to messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.data.conversation import CHAT_TEMPLATE, messages_from_record, render, visuals
from cambrian_gaze.data.records import Record, RecordError
from tests.data._stand_ins import tiny_tokenizer, turns

TOKENIZER = tiny_tokenizer()


def record(*texts, images=(), video=None, **kwargs) -> Record:
    return Record("x", turns(*texts, **kwargs), list(images), video, "train.jsonl", 12)


texts = st.text() | st.sampled_from(["<image>", "a <video>\n<image> b", "<|im_end|>\n", "{{ x }}", " \n ", "<image"])
parts = st.one_of(
    texts.map(lambda text: {"type": "text", "text": text}), st.sampled_from([{"type": "image"}, {"type": "video"}])
)
messages = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts}),
        st.fixed_dictionaries({"role": st.just("user"), "content": st.lists(parts)}),
    ),
    min_size=1,
)


@given(messages, st.booleans())
def test_template_and_segments_give_the_same_text(messages, prompt):
    text = TOKENIZER.apply_chat_template(
        messages, chat_template=CHAT_TEMPLATE, tokenize=False, add_generation_prompt=prompt
    )
    assert "".join(segment.text for segment in render(messages, prompt)) == text


def test_segments_of_one_turn():
    segments = render([{"role": "user", "content": "<image>\nhi"}, {"role": "assistant", "content": "a <image>"}])
    assert [(s.text, s.kind, s.supervised) for s in segments] == [
        ("<|im_start|>user\n", "control", False),
        ("<|image_pad|>", "image", False),
        ("\nhi", "text", False),
        ("<|im_end|>", "control", False),
        ("\n", "control", False),
        ("<|im_start|>assistant\n", "control", False),
        ("a <image>", "text", True),
        ("<|im_end|>", "control", True),
        ("\n", "control", False),
    ]


def test_neighbouring_texts_are_one_segment():
    def user(*content):
        return render([{"role": "user", "content": [{"type": "text", "text": text} for text in content]}])

    assert user("a", "", "b\n") == user("ab\n")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "the conversation is empty"),
        ([{"role": "tool", "content": "x"}], "the role 'tool'"),
        ([{"content": "x"}], "the role None"),
        ([{"role": "user"}], "the content None"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "a content part is .*audio"),
        ([{"role": "user", "content": [{"type": "text"}]}], "a content part is"),
        ([{"role": "user", "content": ["x"]}], "a content part is 'x'"),
        ([{"role": "assistant", "content": [{"type": "image"}]}], "an assistant message holds a part of type 'image'"),
    ],
)
def test_malformed_messages(messages, reason):
    with pytest.raises(RecordError, match=f"{reason}.*Remedy"):
        render(messages)


def test_records_become_messages():
    messages = messages_from_record(record("a<image> b<image>", "c <", images=["1", "2"], system="s"))
    image = {"type": "image"}
    assert messages == [
        {"role": "system", "content": [{"type": "text", "text": "s"}]},
        {"role": "user", "content": [{"type": "text", "text": "a"}, image, {"type": "text", "text": " b"}, image]},
        {"role": "assistant", "content": [{"type": "text", "text": "c <"}]},
    ]
    mixed = record("<video>and<image>", "a", "<image>", "b", images=["1", "2"], video="v")
    assert visuals(messages_from_record(mixed)) == ["video", "image", "image"]
    assert messages_from_record(record("", "a"))[0] == {"role": "user", "content": []}


def test_image_stands_for_the_video_where_that_is_all_there_is():
    assert visuals(messages_from_record(record("<image>\nwhat?", "a", video="v.mp4"))) == ["video"]


@pytest.mark.parametrize(
    ("bad", "reason", "remedy"),
    [
        (record("hi", "a", images=["1"]), "0 <image> and 0 <video> .* 1 images and 0 videos", "one placeholder per"),
        (record("<image>", "a"), "1 <image> and 0 <video> .* 0 images and 0 videos", "one placeholder per"),
        (record("<image>", "a", images=["1", "2"]), "1 <image> and .* 2 images", "one placeholder per"),
        (record("<image><image>", "a", video="v"), "0 <image> and 2 <video> .* 1 videos", "one placeholder per"),
        (record("hi", "a", video=["f"]), "0 <video> .* 1 videos", "one placeholder per"),
        (record("<video>", "a", images=["1"]), "1 <video> placeholders, .* 1 images and 0 videos", "one placeholder"),
        (record("hi", "an <image>"), "turn 2 of 2, an answer, holds the placeholder <image>", "human turn"),
        (record("<image>", "a <video>", images=["1"]), "turn 2 of 2, .* the placeholder <video>", "human turn"),
        (record("hi", " \n"), "turn 2 of 2, an answer, is empty", "write the answer"),
        (record("hi"), "roles are out of order: user", "ending with gpt"),
        (record("hi", "a", "b"), "roles are out of order: user, assistant, user", "ending with gpt"),
        (record(system="only"), "roles are out of order: system", "ending with gpt"),
        (Record("x", turns("q", "a")[::-1], file="train.jsonl", row=12), "order: assistant, user", "ending with gpt"),
        (
            Record("x", turns("q", "a") + turns("q", "a", system="s"), file="train.jsonl", row=12),
            "order: user, assistant, system, user, assistant",
            "an optional system turn",
        ),
    ],
)
def test_bad_records_name_file_row_and_remedy(bad, reason, remedy):
    with pytest.raises(RecordError, match=rf"^train\.jsonl, row 12: .*{reason}.*Remedy: .*{remedy}"):
        messages_from_record(bad)
