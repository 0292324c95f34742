"""Other ways to write a record: read as LLaVA's, or named. Never rows of text whose pictures are lost."""

import json

import pytest

from cambrian_gaze.data.conversation import messages_from_record, visuals
from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.records.records import Layout, parse_record, read_records
from tests.data._stand_ins import turns

TALK = {"conversations": turns("What?", "Red.")}
SAID = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "Red."}]


def read(raw, **layout):
    return parse_record(raw, "train.jsonl", 12, Layout(**layout))


@pytest.mark.parametrize(
    ("key", "value", "images", "video"),
    [
        *((key, "a.png", ["a.png"], None) for key in ("image", "images", "img", "image_path", "image_file", "picture")),
        *(
            (key, ["a.png", "b.png"], ["a.png", "b.png"], None)
            for key in ("image", "images", "image_paths", "img_paths")
        ),
        ("images", [{"bytes": b"png", "path": None}, {"bytes": None, "path": "b.png"}], [b"png", "b.png"], None),
        ("image", {"bytes": b"png"}, [b"png"], None),
        *((key, "a.mp4", [], "a.mp4") for key in ("video", "videos", "video_path", "video_file")),
        *((key, ["a.mp4"], [], "a.mp4") for key in ("video", "videos")),
        *((key, ["a.gif"], [], "a.gif") for key in ("video", "videos")),
        ("videos", ["folder"], [], "folder"),
        ("video", ["folder"], [], ["folder"]),
        ("video", ["1.png", "2.png"], [], ["1.png", "2.png"]),
        ("videos", [["1.png", "2.png"]], [], ["1.png", "2.png"]),
        ("videos", ["1.png", "2.png"], [], ["1.png", "2.png"]),
        *(
            ("image", nothing, [], None)
            for nothing in ("", "None", "nan", None, [], [""], ["None"], [None], float("nan"))
        ),
        *(("video", nothing, [], None) for nothing in ("", "None", "nan", None, [], float("nan"))),
    ],
)
def test_media_stand_under_many_keys(key, value, images, video):
    record = read({**TALK, key: value})
    assert record.images == images and record.video == video and key not in record.extra


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("photo", "a.png"),
        ("file_name", "sub/a.JPG"),
        ("clip_file", "a.mp4"),
        ("media", ["a.png"]),
        ("image_url", "https://example.com/17"),
        ("imageFile", "0017"),
        ("screenshot", {"bytes": b"png", "path": None}),
        ("content", b"png"),
        ("preview", "data:image/png;base64," + 5000 * "A"),
        ("audio", "a.wav"),
        ("frames", ["0", "1"]),
        ("picture_b64", "iVBORw0KGgo" + 80 * "A"),
        ("content", "/9j/4AAQSkZJRg" + 5000 * "A"),
        ("meta", {"source": "coco", "image": "a.png"}),
    ],
)
def test_what_looks_like_media_is_named_and_not_lost(key, value):
    with pytest.raises(
        RecordError, match=rf'row 12: the key "{key}" looks like media.*Remedy.*ignore_keys: \[{key}\]'
    ) as at:
        read({**TALK, key: value})
    assert len(str(at.value)) < 600
    assert read({**TALK, key: value}, ignore_keys=[key]).images == []
    assert read({**TALK, key: value, "image": "x.png"}).images == ["x.png"]


def test_what_is_no_media_is_left_alone():
    more = {
        "source": "coco.json",
        "image_id": 17,
        "num_images": 0,
        "url": None,
        "note": "see a.png there",
        "size": [3, 4],
    }
    record = read({**TALK, **more})
    assert record.extra == more and not record.images and record.foreign_key == ""


def test_two_keys_that_disagree():
    with pytest.raises(RecordError, match='"image" holds 1 images, "images" 2.*keep one'):
        read({**TALK, "image": "a.png", "images": ["a.png", "b.png"]})
    assert read({**TALK, "image": {"bytes": b"png"}, "image_path": "a.png"}).images == [b"png"]
    with pytest.raises(RecordError, match='"videos" lists 2 videos'):
        read({**TALK, "videos": ["a.mp4", "b.mp4"]})
    with pytest.raises(RecordError, match="holds the bytes of a video"):
        read({**TALK, "video": {"bytes": b"film", "path": None}})


def test_without_a_placeholder_only_llavas_own_keys_say_what_the_text_means():
    assert visuals(messages_from_record(read({**TALK, "image": "a.png"}))) == ["image"]
    with pytest.raises(RecordError, match='row 12: .*1 images and 0 videos under "images".*those under "image"'):
        messages_from_record(read({**TALK, "images": ["a.png"]}))
    fits = {"conversations": turns("<image>\nWhat?", "Red."), "images": ["a.png"]}
    assert visuals(messages_from_record(read(fits))) == ["image"]


@pytest.mark.parametrize(
    "raw",
    [
        {"messages": SAID, "images": ["a.png"]},
        {"conversations": SAID, "image": "a.png"},
        {"conversation": turns("<image>\nWhat?", "Red."), "image": "a.png"},
        {"texts": [{"user": "What?", "assistant": "Red."}], "images": [{"bytes": None, "path": "a.png"}]},
        {"texts": {"user": ["What?"], "assistant": ["Red."]}, "images": ["a.png"]},
        {"conversations": {"from": ["human", "gpt"], "value": ["<image>\nWhat?", "Red."]}, "image": "a.png"},
        {"prompt": SAID[:1], "completion": SAID[1:], "images": ["a.png"]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "Red."}]},
            ],
            "images": ["a.png"],
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "image": "a.png"}]},
                {"role": "assistant", "content": "Red."},
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}}, "What?"],
                },
                {"role": "assistant", "content": "Red."},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, "What?"]},
                {"role": "assistant", "content": "Red."},
            ]
        },
    ],
)
def test_forms_of_turns(raw):
    from cambrian_gaze.data.conversation import render

    llava = read({"conversations": turns("<image>\nWhat?", "Red."), "image": "a.png"})
    record = read(raw)
    assert record.images == ["a.png"]
    assert render(messages_from_record(record)) == render(messages_from_record(llava))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"id": 1, "question": "What?", "answer": "Red."}, '"conversations" is missing or no list; .*question, answer'),
        ({"instruction": "a", "output": "b"}, "has the keys 'instruction, output'.*messages"),
        ({"conversations": json.dumps(SAID)}, r'"conversations" is missing or no list: .*JSON as text .json.loads'),
        ({"prompt": "What?", "completion": "Red."}, "\"prompt\" is missing or no list: 'What\\?'.*messages"),
        ({"prompt": SAID[:1], "completion": "Red."}, "\"completion\" none: 'Red.'.*a list of messages too"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 'turn 1 of 1 is from "tool"'),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "turn 1 of 1: a content part is"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "an <image>"}]}]}, "of type text holds"),
        ({"texts": [{"user": "x"}]}, "turn 1 of 1 lacks"),
        ({**TALK, "image": "data:image/png;base64,AAAA"}, "stands in the record itself.*pictures must be files"),
        ({**TALK, "image": "A" * 9000}, "stands in the record itself.*pictures must be files"),
        ({**TALK, "image": "s3://bucket/a.png"}, "is an address .URL., and nothing is downloaded"),
    ],
)
def test_what_cannot_be_read_says_how_to_convert_it(raw, reason):
    with pytest.raises(RecordError, match=reason) as caught:
        read(raw)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"data": [TALK, TALK]}, "data"),
        ({"info": {"version": 1}, "annotations": [TALK]}, "annotations"),
        ({"version": "1", "mine": [TALK]}, "mine"),
    ],
)
def test_a_file_that_wraps_its_rows_says_how_to_unwrap_them(tmp_path, content, key, indent):
    path = tmp_path / "wrapped.json"
    path.write_text(json.dumps(content, indent=indent))
    with pytest.raises(RecordError, match="wrapped.json is one object.*Remedy: write the rows alone.*jq -c"):
        read_records(path)
    if indent is None:
        with pytest.raises(RecordError, match=rf'under "{key}".*jq -c \'\.{key}\[\]\''):
            read_records(path)


def test_rows_that_only_look_wrapped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**TALK, "data": [{"x": 1}]}) + "\n" + "{\n")
    assert read_records(path)[0].extra == {"data": [{"x": 1}]}
    path.write_text(json.dumps({"data": 3}) + "\n" + json.dumps(TALK) + "\n")
    assert len(read_records(path)) == 2


def test_a_system_text_beside_the_turns():
    for key in ("system", "system_prompt"):
        brief = {"from": "system", "value": "Be brief."}
        assert read({**TALK, key: "Be brief."}).conversations == [brief, *TALK["conversations"]]
        assert read({**TALK, key: "Be brief."}, system_prompt="Be long.").conversations[0] == brief
        own = {"conversations": [brief, *TALK["conversations"]]}
        assert read({**own, key: "Be brief. "}).conversations == own["conversations"]
        assert (
            read({**TALK, key: " "}).conversations == read({**TALK, key: None}).conversations == TALK["conversations"]
        )
        with pytest.raises(RecordError, match=rf"row 12: the system turn and \"{key}\" differ.*ignore_keys: \[{key}\]"):
            read({**own, key: "Be long."})
        assert read({**own, key: "Be long."}, ignore_keys=[key]).conversations == own["conversations"]


def test_what_a_message_says_of_its_video():
    def asked(**keys):
        content = [{"type": "video", "video": ["1.png", "2.png"], **keys}, {"type": "text", "text": "What?"}]
        return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "Red."}]}

    assert read(asked(fps=2.0, start_time=1)).extra == {"fps": 2.0, "start_time": 1}
    assert read(asked(fps=None, max_pixels=9)).extra == {"max_pixels": 9}
    with pytest.raises(RecordError, match='row 12: "video_start" .* looks like a clip'):
        read(asked(video_start=3.0, video_end=5.0))
    with pytest.raises(RecordError, match='row 12: "fps" is 4 for the row and 2 in its message'):
        read({**asked(fps=2), "fps": 4})
