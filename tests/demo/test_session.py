"""What a visitor may send, and what is kept of it."""

import copy
import dataclasses
from pathlib import Path

import pytest

from cambrian_gaze.demo.conversation import Conversation
from cambrian_gaze.demo.session import Session, summary
from cambrian_gaze.demo.talk import Talker
from cambrian_gaze.viz.trace import Trace
from tests.demo.conftest import SHORT


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.html", b"<script>", "no picture or video that is known by its name (.html)"),
        ("x", b"", "no suffix"),
        ("x.png", b"no picture", "x.png"),
        ("x.mp4", b"no video", "x.mp4"),
        ("big.png", b"0" * 2000, "has more than 0 MiB"),
    ],
)
def test_files_that_are_not_taken(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    conversation = Conversation()
    with pytest.raises(ValueError) as error:
        conversation.look_at(write(tmp_path / name, content), dataclasses.replace(SHORT, max_file=1000))
    assert said in str(error.value) and str(tmp_path) not in str(error.value)
    assert conversation == Conversation()


def test_limits(picture: Path) -> None:
    limits = dataclasses.replace(SHORT, max_visuals=1, max_turns=1, max_text=5, max_pixels=100)
    conversation = Conversation()
    with pytest.raises(ValueError, match="pixels"):
        conversation.look_at(picture, limits)
    conversation.look_at(picture, dataclasses.replace(limits, max_pixels=10**6))
    with pytest.raises(ValueError, match="holds 1 pictures"):
        conversation.look_at(picture, limits)
    for text, said in ((" ", "write a question"), ("too long", "5 characters")):
        with pytest.raises(ValueError, match=said):
            conversation.ask(text, limits)
    conversation.ask("Why?", limits)
    with pytest.raises(ValueError, match="1 questions at most"):
        conversation.ask("Why?", limits)


def test_a_refusal_leaves_nothing_behind(talker: Talker, picture: Path, tmp_path: Path) -> None:
    session = Session()
    with pytest.raises(ValueError):
        session.take(talker, "What?", [str(picture), str(write(tmp_path / "x.png", b"none"))])
    with pytest.raises(ValueError, match="write a question, or add"):
        session.take(talker, "", [])
    assert session == Session()


def test_an_answer_again_says_with_what(talker: Talker, picture: Path, tmp_path: Path) -> None:
    session = Session()
    assert not session.take(talker, "", [str(picture)])
    shown = session.shown(talker)
    assert shown["data"]["shape"][0] == 0 and shown["data"]["units"][0]["src"].startswith("data:image/")
    assert session.take(talker, "What?", [])
    session.steer(2, [], [])
    *_, last = session.answer(talker)
    assert "visual" in summary(last) and session.shown(talker)["data"]["units"][0]["src"] == ""
    session.steer(3, [1], [])
    list(session.answer(talker))
    texts = [message["content"] for message in session.chat]
    assert texts[1] == "What?" and texts[3].startswith("[K = 3, 1 region hidden] ")
    assert [message["role"] for message in session.conversation.messages] == ["user", "assistant"]
    session.take(talker, "And?", [])
    list(session.answer(talker))
    assert len(session.conversation.messages) == 4

    trace, page = session.files(tmp_path)
    assert (
        Trace.load(trace).steering == {"hidden": [1], "forced": []} and "<title>And?</title>" in Path(page).read_text()
    )
    session.forget()
    assert session == Session() and not Path(trace).exists()


def test_a_question_that_cannot_be_answered_is_forgotten(talker: Talker, picture: Path) -> None:
    session = Session()
    session.take(talker, "What?", [str(picture)])
    session.steer(2, list(range(16)), [])
    with pytest.raises(ValueError, match="every region is hidden"):
        list(session.answer(talker))
    assert session.conversation.messages == [] and len(session.chat) == 1
    session.steer(2, [], [])
    session.take(talker, "What?", [])
    *_, last = session.answer(talker)
    assert len(last.trace.items) == 1


def test_a_session_begins_empty_for_each_visitor(talker: Talker, picture: Path) -> None:
    session = Session()
    session.take(talker, "What?", [str(picture)])
    assert copy.deepcopy(session) == Session()
