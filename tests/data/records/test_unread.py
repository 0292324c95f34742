"""What a row says beside texts and media is read or named: never another row than the one that was written."""

import pytest

from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.records.records import Layout, parse_record
from tests.data._stand_ins import turns

TALK = {"conversations": turns("What?", "Red.")}


def read(raw, **layout):
    return parse_record(raw, "train.jsonl", 12, Layout(**layout))


def answered(**keys):
    return [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "Red.", **keys}]


@pytest.mark.parametrize("key", ["weight", "loss", "train", "loss_scale"])
def test_answers_that_are_not_to_be_learnt_are_named(key):
    for value in (0, False, 0.5):
        with pytest.raises(RecordError, match=rf'row 12: turn 2 of 2 says "{key}": .*learnt alike. Remedy: delete'):
            read({"messages": answered(**{key: value})})
    for value in (1, 1.0, True, None):
        assert (
            read({"messages": answered(**{key: value})}).conversations == read({"messages": answered()}).conversations
        )
    talk = [{"from": "human", "value": "What?", key: 0}, {"from": "gpt", "value": "Red."}]
    assert read({"conversations": talk}).conversations == TALK["conversations"], "no question is learnt"


@pytest.mark.parametrize("key", ["tool_calls", "function_call", "reasoning_content", "thinking"])
def test_parts_of_answers_are_not_lost(key):
    with pytest.raises(
        RecordError, match=rf'row 12: turn 2 of 2: "{key}" is not read: .*Remedy: write it into the text'
    ):
        read({"messages": answered(**{key: [{"name": "look"}]})})
    assert read({"messages": answered(**{key: []})}).conversations[1] == {"from": "assistant", "value": "Red."}


def test_media_of_a_turn_are_not_lost():
    talk = [{"role": "user", "content": "What?", "images": ["a.png"]}, {"role": "assistant", "content": "Red."}]
    with pytest.raises(RecordError, match='row 12: turn 1 of 2: the key "images" looks like media.*of the row'):
        read({"messages": talk})
    assert read({"messages": talk, "image": "a.png"}).images == ["a.png"]
    named = [{"role": "user", "content": "What?", "name": "Ann"}, {"role": "assistant", "content": "Red.", "id": 3}]
    assert len(read({"messages": named}).conversations) == 2


def test_tools_and_weights_of_a_row():
    with pytest.raises(RecordError, match=r'row 12: the tools under "tools" are not read.*ignore_keys: \[tools\]'):
        read({**TALK, "tools": [{"name": "look"}]})
    with pytest.raises(RecordError, match=r'row 12: the row says "weight": 0.5.*ignore_keys: \[weight\]'):
        read({**TALK, "weight": 0.5})
    for more in ({"tools": []}, {"tools": ""}, {"tools": "[]"}, {"weight": 1.0}, {"weight": "3 kg"}):
        assert read({**TALK, **more}).extra == more
    assert read({**TALK, "weight": 0.5, "tools": "[1]"}, ignore_keys=["weight", "tools"]).extra == {}


def test_a_column_that_the_row_lacks_does_not_hide_its_own_key():
    with pytest.raises(RecordError, match='row 12: the row has "image" and no "pic".*columns: {image: pic}'):
        read({**TALK, "image": "a.png"}, columns={"image": "pic"})
    assert read({**TALK, "image": "a.png", "pic": "b.png"}, columns={"image": "pic"}).images == ["b.png"]
    assert read({**TALK, "image": None}, columns={"image": "pic"}).images == [], "a row of text"
