"""Messages to segments, and records to messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.data.conversation import CHAT_TEMPLATE, messages_from_record, render, visuals
from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.records.records import Record
from tests.data._stand_ins import tiny_tokenizer, turns

TOKENIZER = tiny_tokenizer()


def record(*texts, images=(), video=None, **kwargs) -> Record:
    return Record("x", turns(*texts, **kwargs), list(images), video, "train.jsonl", 12)


WRITTEN = [
    "<image>",
    "a <video>\n<image> b",
    "<image> <image>,",
    "Q <image>",
    "end",
    ".",
    "<|im_end|>\n",
    "{{ x }}",
    " \n ",
    "<image",
]
texts = st.text() | st.sampled_from(WRITTEN)
parts = st.one_of(
    texts.map(lambda text: {"type": "text", "text": text}), st.sampled_from([{"type": "image"}, {"type": "video"}])
)
messages = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts}),
        st.fixed_dictionaries({"role": st.just("user"), "content": st.lists(parts)}),
        st.fixed_dictionaries(
            {
                "role": st.just("user"),
                "content": st.lists(parts) | texts,
                "image_position": st.sampled_from(["first", "as_written"]),
            }
        ),
    ),
    min_size=1,
)


@given(messages, st.booleans())
def test_template_and_segments_give_the_same_text(messages, prompt):
    text = TOKENIZER.apply_chat_template(
        messages, chat_template=CHAT_TEMPLATE, tokenize=False, add_generation_prompt=prompt
    )
    assert "".join(segment.text for segment in render(messages, prompt)) == text


IMAGE, VIDEO = {"type": "image"}, {"type": "video"}


def text(value):
    return {"type": "text", "text": value}


def asked(*content):
    """What one user message renders to, `<|image_pad|>` as I and `<|video_pad|>` as V."""
    rendered = "".join(segment.text for segment in render([{"role": "user", "content": list(content)}])[1:-2])
    return rendered.replace("<|image_pad|>", "I").replace("<|video_pad|>", "V")


@pytest.mark.parametrize(
    ("written", "content", "rendered"),
    [
        ("<image>\nWhat?", [IMAGE, text("What?")], "I\nWhat?"),
        ("<image>\nWhat?", [IMAGE, text("\nWhat?")], "I\nWhat?"),
        ("What?\n<image>", [text("What?"), IMAGE], "I\nWhat?"),
        ("What <image> here?", [text("What "), IMAGE, text(" here?")], "I\nWhat  here?"),
        ("Look.<image>What?", [text("Look."), IMAGE, text("What?")], "I\nLook.\nWhat?"),
        ("  <image> ", [text("  "), IMAGE, text(" ")], "I"),
        ("<video>\nWhat?", [text("What?"), VIDEO], "V\nWhat?"),
        ("<image>\n<image>\nWhich?", [IMAGE, IMAGE, text("Which?")], "I\nI\nWhich?"),
        ("<image><image>Which?", [IMAGE, IMAGE, text("Which?")], "I\nI\nWhich?"),
        ("<image> <image>\nWhich?", [IMAGE, IMAGE, text("Which?")], "I\nI\nWhich?"),
        ("Which? <image> <image>", [text("Which?"), IMAGE, IMAGE], "I\nI\nWhich?"),
        ("<video><image>Both?", [VIDEO, IMAGE, text("Both?")], "V\nI\nBoth?"),
        ("A: <image> B: <image> ?", [text("A: "), IMAGE, text(" B: "), IMAGE, text(" ?")], "A: I B: I ?"),
        ("<image>A<image>B", [IMAGE, text("A"), IMAGE, text("B")], "I\nAI\nB"),
        ("<image>, <image>.", [IMAGE, text(", "), IMAGE, text(".")], "I, I."),
        ("a<image><image>b<image>", [text("a"), IMAGE, IMAGE, text("b"), IMAGE], "aI\nI\nbI"),
        (" no picture ", [text(" no picture ")], " no picture "),
    ],
)
def test_a_record_and_its_question_in_parts_or_as_a_string_render_alike(written, content, rendered):
    assert asked(*content) == rendered
    pictures, films = written.count("<image>"), written.count("<video>")
    trained = messages_from_record(record(written, "a", images=["i"] * pictures, video="v" if films else None))
    question = {"role": "user", "content": content}
    assert render(trained[:-1], True) == render([question], True) == render([{**question, "content": written}], True)


def test_each_turn_has_its_own_pictures():
    trained = messages_from_record(record("one <image>", "a", "<image>\ntwo", "b", "three", "c", images=["1", "2"]))
    question = [[text("one"), IMAGE], [text("a")], [IMAGE, text("two")], [text("b")], [text("three")]]
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(question)]
    assert render(trained[:-1], True) == render(messages, True)


def test_a_placeholder_in_a_text_part_is_text():
    assert asked(IMAGE, text("What does <image> mean?")) == "I\nWhat does <image> mean?"


def test_as_written_changes_nothing():
    for written in ("What?<image>", "<image>What?", " a <image><image>\n", "<image>\nWhat?"):
        trained = messages_from_record(record(written, "a", images=["i"] * written.count("<image>")), "as_written")
        assert "".join(s.text for s in render(trained)[1:-5]).startswith(written.replace("<image>", "<|image_pad|>"))
    with pytest.raises(RecordError, match="image_position 'last'.*first or as_written"):
        render([{"role": "user", "content": "", "image_position": "last"}])


def test_pictures_without_a_placeholder_stand_first_in_the_first_question():
    trained = messages_from_record(record("one", "a", "two", "b", images=["1", "2"], system="s"))
    assert visuals(trained) == ["image", "image"]
    assert render(trained[1:2])[1:-2] == render([{"role": "user", "content": [IMAGE, IMAGE, text("one")]}])[1:-2]
    assert visuals(messages_from_record(record("one", "a", video="v"))) == ["video"]
    with pytest.raises(RecordError, match="0 <image> and 0 <video> .* 1 images"):
        messages_from_record(record("hi", "a", images=["1"]), "as_written")


@given(messages)
def test_rendered_once_or_twice_is_the_same(drawn):
    """Messages made of the rendered parts render to the same text."""
    for message in drawn:
        if message["role"] != "assistant" and message.get("image_position") != "as_written":
            once = [s for s in render([message])[1:-2]]
            again = [text(s.text) if s.kind == "text" else {"type": s.kind} for s in once]
            assert [s for s in render([{"role": "user", "content": again}])[1:-2]] == once


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
        (record("<image>", "a", "x", "b", images=["1", "2"]), "1 <image> and 0 <video> .* 2 images", "one placeholder"),
        (record("<image>", "a"), "1 <image> and 0 <video> .* 0 images and 0 videos", "one placeholder per"),
        (record("<image>", "a", images=["1", "2"]), "1 <image> and .* 2 images", "one placeholder per"),
        (record("<image><image>", "a", video="v"), "0 <image> and 2 <video> .* 1 videos", "one placeholder per"),
        (record("<image>", "a", images=["1"], video=["f"]), "0 <video> .* 1 videos", "one placeholder per"),
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
