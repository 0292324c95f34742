"""What cuts a clip out of a video: both families of keys, and what is refused."""

import pytest

from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.media.clips import check_clip_keys, folder_fps, number_of, other_rate
from cambrian_gaze.data.media.frame_sampling import FrameSampling, Timeline, select_frames
from cambrian_gaze.data.media.image_files import MediaError
from cambrian_gaze.data.records.records import parse_record
from tests.data._stand_ins import turns

ROW = {"video": "v.mp4", "conversations": turns("<video>", "a")}
TEN = Timeline.regular(100, 10.0)


def frames(most=64, **clip):
    return select_frames(TEN, clip, FrameSampling(video_max_frames=most), "v")


def test_both_families_cut_the_same_clip():
    assert frames(start=2, end=5) == frames(start_time=2, end_time=5) == [20, 30, 40]
    assert frames(start="2", end="00:05") == frames(start=2.0, end=5.0)
    assert frames(start=8) == [80, 90] and frames(end=1.5) == [0, 10]
    assert frames(start=None, end=None) == frames()


def test_the_observed_frame_is_shown_last():
    assert frames(start_frame=0, end_frame=30, current_observation_frame=57) == [0, 10, 20, 57]
    assert frames(most=3, start_frame=0, end_frame=50, current_observation_frame=99) == [0, 49, 99]
    assert frames(most=1, current_observation_frame=7) == [7]
    assert frames(start_frame=0, end_frame=30, current_observation_frame=20) == [0, 10, 20]
    with pytest.raises(MediaError, match="current_observation_frame 100 is none of the 100 frames"):
        frames(current_observation_frame=100)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("begin", 3), ("stop", 4.5), ("clip_start", 1), ("endTime", 7), ("start_sec", "12.5"), ("begin_frame", 3)],
        *[("end_timestamp", "00:01:30"), ("clip", [3, 8]), ("timestamps", [1.5, 2]), ("segment", ["0:10", "0:20"])],
        *[("frame_idx", [0, 5, 9]), ("frames", [1, 2, 3]), ("from_sec", 4), ("timestamp", 12.5)],
        ("observation_frame", 9),
        *[("clip", {"start": 3, "end": 8}), ("bound", [3, 8]), ("time", "3-8"), ("time_range", [3.0, 8.0])],
        *[
            ("segment", "00:10 - 00:20"),
            ("timestamps", [[3, 8], [9, 10]]),
            ("span", "[3.5, 8]"),
            ("window", "3s to 8s"),
        ],
    ],
)
def test_an_unknown_limit_is_an_error(key, value):
    with pytest.raises(RecordError, match=f'row 3: "{key}" .* looks like a clip.*start_time and end_time.*ignore_keys'):
        parse_record({**ROW, key: value}, "f", 3)
    assert parse_record({"conversations": turns("q", "a"), key: value} if key != "frames" else ROW, "f", 3)


def test_other_keys_are_no_limits():
    more = {"duration": 30, "num_frames": 900, "video_id": "17", "weekend": 3, "clip_id": 4, "question_type": "when"}
    check_clip_keys({**more, "start_time": 1, "fps": 30, "segment_id": 2, "data_source": "tvqa", "created": 1.7e9})
    check_clip_keys(
        {"time": "10:30", "clip": {"source": "tvqa", "id": 3}, "timestamps": [], "bound": "upper", "range": 3}
    )


def test_two_keys_for_one_limit_agree_or_are_refused():
    check_clip_keys({"start": 3, "start_time": "3.0"})
    with pytest.raises(RecordError, match='two keys disagree about the clip: "start_time" 4, "start" 3'):
        check_clip_keys({"start": 3, "start_time": 4})


def test_numbers():
    assert [number_of(v) for v in (1, "2.5", "1:02", "1:01:01.5", True, "soon", None, float("nan"), "inf")] == [
        *(1.0, 2.5, 62.0, 3661.5),
        *[None] * 5,
    ]


def test_rates_of_folders():
    assert [folder_fps(p) for p in ("a/TVQA/frames", "x/shareVideoGPTV/v1", "ShareGPT4Video/1", "mine")] == [3, 2, 2, 1]
    assert other_rate({"video_fps": 30}) == "video_fps" and other_rate({"frame_rate": "25"}) == "frame_rate"
    assert other_rate({"fps": 3, "num_frames": 4}) is None
