"""Errors of a bearable length, in the words of the way of calling."""

import pickle

import pytest
from PIL import Image

from cambrian_gaze.data.errors import RecordError, shortened, shown, speaking_of_flags
from cambrian_gaze.data.media.image_files import MediaError, load_image
from cambrian_gaze.data.records.records import parse_record
from tests.data._stand_ins import turns


def test_long_values_are_cut_wherever_they_are_quoted():
    long = "A" * 80_000
    error = RecordError(f"{long!r} is no file", f"not {long}", "f.jsonl", 3)
    assert len(str(error)) < 600 and "(80,002 characters)" in str(error) and str(error).startswith("f.jsonl, row 3: ")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == str(error.at("g", 1))
    assert len(shortened("word " * 9000)) < 900 and shortened("short") == "short"
    assert shown(b"x" * 5000) == "5,000 bytes" and len(shown({"a": long})) < 120
    with pytest.raises(MediaError) as caught:
        load_image(long[:5000] + ".png", ".")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "row", [{"conversations": [{"from": "A" * 9000, "value": "x"}]}, ["A" * 9000], {"A" * 9000: 1}]
)
def test_rows_are_quoted_in_short(row):
    with pytest.raises(RecordError) as caught:
        parse_record(row, "f.jsonl", 1)
    assert len(str(caught.value)) < 800


def test_remedies_fit_the_way_of_calling(tmp_path):
    def remedy(*arguments, **options):
        with pytest.raises(MediaError) as caught:
            load_image(*arguments, **options)
        return caught.value.remedy

    assert remedy("a.png", tmp_path) == "check the path and image_folder, or delete the row"
    assert remedy("a.png", tmp_path, flag="") == "check the path"
    with speaking_of_flags():
        assert remedy("a.png", tmp_path) == "check the path and --image_folder, or delete the row"
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "sub" / "b.png")
    assert "a backslash is a part of the name" in remedy("sub\\b.png", tmp_path)
    assert parse_record({"image": "sub/b.png", "conversations": turns("q", "a")}, "f", 1).images == ["sub/b.png"]
