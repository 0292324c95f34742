"""Messages of lmms-eval's tasks as ours."""

import pytest
from PIL import Image

from cambrian_gaze.data.media.video import FrameSampling
from cambrian_gaze.evaluation.lmms.messages import loaded, media_fingerprints, outline

PICTURE = Image.new("L", (6, 4), 9)


def message(*content):
    return [{"role": "user", "content": list(content)}]


def text_of(messages):
    return [part["text"] for part in messages[0]["content"] if part["type"] == "text"]


def test_a_question_begins_on_a_line_of_its_own_unless_it_was_made_for_this_model():
    image = {"type": "image", "url": PICTURE}
    question = {"type": "text", "text": "Which?"}
    assert text_of(outline(message(image, question))) == ["\nWhich?"]
    assert text_of(outline(message(image, {"type": "text", "text": "\nWhich?"}))) == ["\nWhich?"]
    assert text_of(outline(message({**image, "as_is": True}, question))) == ["Which?"]
    assert text_of(outline(message(question, image))) == ["Which?"]
    assert text_of(outline([{"role": "system", "content": "Be brief."}])) == ["Be brief."]


def test_pictures_come_as_rgb_from_memory_and_from_files(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    for url in (PICTURE, str(tmp_path / "a.png")):
        part = loaded(message({"type": "image", "url": url}), FrameSampling())[0]["content"][0]
        assert part["image"].mode == "RGB" and part["image"].size == (6, 4)


def test_videos_are_sampled_and_cut(tmp_path):
    for number in range(6):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")

    def frames(**part):
        shown = loaded(message({"type": "video", "url": str(tmp_path), **part}), FrameSampling())
        return [frame.getpixel((0, 0))[0] for frame in shown[0]["content"][0]["video"]]

    assert frames() == [0, 1, 2, 3, 4, 5]
    assert frames(start_time=2.0, end_time=4.0) == [2, 3]
    assert frames(url={"url": str(tmp_path), "video_start": 2.0, "video_end": 4.0}) == [2, 3]
    assert frames(fps=2.0) == [0, 2, 4]


def test_fingerprints_differ_by_picture_and_by_clip(tmp_path):
    PICTURE.save(tmp_path / "0.png")
    video = {"type": "video", "url": str(tmp_path)}
    pictures = [PICTURE, PICTURE.copy(), PICTURE.resize((4, 6)), Image.new("L", (6, 4), 8)]
    parts = [*({"type": "image", "url": one} for one in pictures), video, {**video, "start_time": 1.0}]
    prints = media_fingerprints(message(*parts))
    assert len(prints) == 6 and len(set(prints)) == 5 and prints[0] == prints[1]


def test_what_the_model_cannot_take_is_refused():
    with pytest.raises(ValueError, match="type 'audio'"):
        outline(message({"type": "audio", "url": "a.wav"}))
    with pytest.raises(ValueError, match="shows a video as list; a path is needed"):
        media_fingerprints(message({"type": "video", "url": [PICTURE]}))
