"""What a run reads is decided before it starts, and nothing is left out without being counted."""

import numpy as np
import pytest

from cambrian_gaze.data.dataset import SampleOptions
from cambrian_gaze.data.media.video import FrameSampling
from cambrian_gaze.data.mixture.lengths import measure_mixture
from cambrian_gaze.data.mixture.mixture import Mixture, MixtureDataset
from cambrian_gaze.data.mixture.recipe import recipe_of
from cambrian_gaze.data.mixture.selection import excluded_rows, select
from cambrian_gaze.data.quarantine import Dropped, Quarantined
from tests.data._stand_ins import turns, write_image, write_jsonl

# (tokens, units, frames): text, long text, a picture, a video of 10 frames of 8 tokens, one with too much text, broken.
MEASURES = np.array(
    [[20, 0, 0], [90, 0, 0], [50, 2, 0], [100, 10, 10], [155, 11, 10], [-2, 0, 0], [-3, 0, 0]], np.int32
)


def chosen(overlong: str, **options):
    return select(7, None, MEASURES, max_length=60, overlong=overlong, frame_tokens=8, **options)


@pytest.mark.parametrize("overlong", ["quarantine", "drop"])
def test_over_long_rows_are_left_out(overlong):
    selection = chosen(overlong)
    assert selection.rows.tolist() == [0, 2]
    assert {name: rows.tolist() for name, rows in selection.left_out.items()} == {
        "unreadable": [5, 6],
        "overlong": [1, 3, 4],
    }


def test_text_is_cut():
    selection = chosen("truncate_text")
    assert selection.rows.tolist() == [0, 1, 2, 3, 4] and selection.shortened == 3
    assert selection.lengths[:5].tolist() == [20, 60, 50, 60, 60]


def test_videos_get_fewer_frames():
    selection = chosen("fewer_frames")
    assert selection.rows.tolist() == [0, 2, 3] and selection.shortened == 1
    assert selection.lengths[3] == 60 and selection.units[3] == 5  # 20 of text and 5 frames of 8
    assert selection.left_out["overlong"].tolist() == [1, 4]  # no video; 75 tokens of text
    assert MEASURES[3].tolist() == [100, 10, 10]


def test_without_measures_only_lists_exclude():
    selection = select(4, np.array([False, True, False, False]))
    assert selection.rows.tolist() == [0, 2, 3] and selection.lengths is None
    assert selection.left_out["excluded"].tolist() == [1]


@pytest.mark.parametrize("overlong", ["quarantine", "drop", "truncate_text", "fewer_frames"])
def test_what_is_planned_is_what_is_read(tmp_path, processor, overlong):
    for i in range(12):
        write_image(tmp_path / "clip" / f"{i}.png", (0, 20 * i, 0))
    rows = [
        {"id": "short", "conversations": turns("q", "a")},
        {"id": "long", "conversations": turns("q", "a " * 90)},
        {"id": "video", "video": "clip", "conversations": turns("<video> q", "a")},
        {"id": "question", "conversations": turns("q " * 90, "a")},
        {"id": "both", "video": "clip", "conversations": turns("<video> q", "a " * 90)},
    ]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    options = {"sampling": FrameSampling(video_max_frames=12), "max_length": 100, "overlong": overlong}
    data = MixtureDataset(Mixture(recipe_of([path], tmp_path)), processor, SampleOptions(**options))
    selection = select(5, None, measure_mixture(data), max_length=100, overlong=overlong, frame_tokens=2 * 3 + 2)
    for row in range(5):
        sample = data[row]
        if overlong == "truncate_text" and row > 1:
            # That the cut would take what is supervised shows when the sample is read.
            assert row in selection.rows and "no supervised token would be left" in sample.reason
        elif row in selection.rows:
            assert len(sample["input_ids"]) == selection.lengths[row] <= 100
            assert len(sample.get("pixel_values", [])) == selection.units[row]
            assert sample.get("overlong") == (overlong if row in (1, 2) else None)
        else:
            assert type(sample) is (Dropped if overlong == "drop" else Quarantined)
            assert data.fault(row).id == rows[row]["id"] and "exceed max_length 100" in data.fault(row).reason
    wanted = {"fewer_frames": [0, 2], "truncate_text": [0, 1, 2, 3, 4]}.get(overlong, [0])
    assert selection.rows.tolist() == wanted


def test_lists_name_files_and_rows(tmp_path, caplog):
    plain = write_jsonl(tmp_path / "a.jsonl", [{"id": str(i), "conversations": turns("q", "a")} for i in range(5)])
    spaced = tmp_path / "b.jsonl"
    spaced.write_text("\n\n".join(plain.read_text().splitlines()) + "\n")  # records in lines 1, 3, 5, 7, 9
    mixture = Mixture(recipe_of([plain, spaced]))
    entries = [{"file": str(plain), "row": 2}, {"file": f"{tmp_path}/./b.jsonl", "row": 5}]
    assert np.flatnonzero(excluded_rows(mixture, entries, "list")).tolist() == [1, 7]
    assert not caplog.text
    excluded_rows(mixture, [*entries, {"file": str(spaced), "row": 4}, {"file": "gone.jsonl", "row": 1}], "list")
    assert "list: 2 of its 4 entries name rows that the mixture does not read" in caplog.text
    with pytest.raises(ValueError, match="none of the 1 entries of list names a file of the mixture"):
        excluded_rows(mixture, [{"file": "other.jsonl", "row": 1}], "list")
