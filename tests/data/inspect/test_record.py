"""One record looked at from all sides."""

import pytest
from PIL import Image

from cambrian_gaze.data.inspect.record import Inspector
from cambrian_gaze.data.records.records import read_records
from tests.data._stand_ins import turns, write_image, write_jsonl

ASK = turns("<image>\nWhat?", "This.")


@pytest.fixture
def look(tmp_path):
    """Inspects one row in a folder with a.png (8x8), wide.jpg (lying, 30x10 upright) and three frames."""
    write_image(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 30)).save(tmp_path / "wide.jpg", exif=exif)
    for number in range(3):
        write_image(tmp_path / "frames" / f"{number}.png")

    def inspect(row, **options):
        records = read_records(write_jsonl(tmp_path / "rows.jsonl", [row]))
        return Inspector(**options).row(records, 0, (str(tmp_path), str(tmp_path)))

    return inspect


def kinds(found):
    return [problem.kind for problem in found.problems]


def test_a_good_row_and_its_tokens(look, processor):
    found = look({"id": "x", "image": ["a.png", "wide.jpg"], "conversations": turns("<image><image>?", "Yes.")})
    assert (found.id, found.row, found.images, found.videos, found.problems) == ("x", 1, 2, 0, [])
    assert found.sizes == [(8, 8), (30, 10)] and found.length is None
    found = look({"image": "a.png", "conversations": turns("<image>", "This.")}, processor=processor)
    text = "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\nThis.<|im_end|>\n"
    assert found.length == len(processor.tokenizer(text)["input_ids"]) + 8 and found.visual == 8  # 2x3 + 2
    found = look({"video": "frames", "fps": 1, "conversations": turns("<video>", "x")}, processor=processor)
    assert found.frames == 3 and found.visual == 24 and not found.problems


def test_every_problem_of_a_row_is_told(look, processor):
    row = {"image": ["gone.png", "frames"], "conversations": turns("<image>?", " ")}
    assert kinds(look(row)) == ["empty_answer", "missing", "undecodable"]
    row["conversations"] = turns("<image>?", "x")
    found = look(row)
    assert kinds(found) == ["placeholders", "missing", "undecodable"]
    assert str(found.problems[1]).startswith("'gone.png' cannot be found in ")
    assert all(problem.remedy for problem in found.problems)
    assert kinds(look({"image": "a.png", "conversations": ASK}, processor=processor, max_length=30)) == ["overlong"]
    assert kinds(look({"image": "a.png", "conversations": ASK}, processor=processor, max_length=500)) == []
    assert kinds(look(7)) == ["malformed"]


def test_a_missing_frame_is_seen_without_decoding(look):
    row = {"video": ["frames/0.png", "frames/7.png"], "conversations": turns("<video>", "x")}
    for media in ("exists", "header", "decode"):
        assert kinds(look(row, media=media)) == ["missing"]


def test_rows_that_say_the_same_have_one_fingerprint(look):
    row = {"id": "1", "image": "a.png", "conversations": ASK}
    assert look(row).fingerprint == look({**row, "comment": "more"}).fingerprint
    assert look(row).fingerprint != look({**row, "id": "2"}).fingerprint
    clip = {"video": "frames", "conversations": turns("<video>", "x"), "start_time": 0}
    assert (
        look(clip).fingerprint == look({**clip, "note": 1}).fingerprint != look({**clip, "start_time": 1}).fingerprint
    )


def test_unknown_level():
    with pytest.raises(ValueError, match="media='all' is unknown; use one of exists, header, decode"):
        Inspector(media="all")
