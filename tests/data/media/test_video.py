"""Which frames are taken, and from where."""

import sys

import pytest

from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.data.media.image_files import MachineError, MediaError
from cambrian_gaze.data.media.video import count_frames, list_frames, load_frames
from tests.data._stand_ins import write_image


def reds(frames) -> list[int]:
    return [frame.getpixel((0, 0))[0] for frame in frames]


@pytest.fixture
def folder(tmp_path):
    for i in range(12):
        write_image(tmp_path / "clip" / f"frame_{i}.png", (i, 0, 0))
    (tmp_path / "clip" / "notes.txt").write_text("no frame")
    return tmp_path


def test_folders_are_sorted_by_number(folder):
    assert reds(load_frames("clip", folder)) == list(range(12))
    assert reds(load_frames("clip", folder, clip={"fps": 3})) == [0, 3, 6, 9]


@pytest.mark.parametrize(
    "names",
    [
        ["0.0.png", "0.25.png", "0.5.png", "2.0.png", "10.5.png"],
        ["frame_0.25s.png", "frame_0.5s.png", "frame_1s.png"],
        ["1.2.png", "1.10.png", "2.1.png"],
        ["v1.5_9.png", "v1.5_10.png"],
        ["1403636579763555584.png", "1403636579763555585.png", "1403636579763555585.5.png"],
    ],
)
def test_frames_named_by_seconds_and_by_numbers(tmp_path, names):
    for name in names:
        write_image(tmp_path / "film" / name)
    assert list_frames("film", tmp_path) == [f"film/{name}" for name in names]


def test_clips_by_time_and_by_frame(folder):
    assert reds(load_frames("clip", folder, clip={"fps": 2, "start_time": 2, "end_time": 4.0})) == [4, 6]
    assert reds(load_frames("clip", folder, clip={"start_frame": 3, "end_frame": 6})) == [3, 4, 5]
    assert reds(load_frames("clip", folder, clip={"start_frame": 10, "end_frame": 99})) == [10, 11]


def test_lists_keep_their_order_and_only_sampled_frames_are_read(folder):
    frames = ["clip/frame_3.png", "missing.png", "clip/frame_1.png"]
    assert reds(load_frames(frames, folder, clip={"fps": 2})) == [3, 1]
    with pytest.raises(MediaError, match="'missing.png' cannot be found.*the path and video_folder"):
        load_frames(frames, folder)


@pytest.mark.parametrize(
    ("video", "clip", "reason"),
    [
        ("none", {}, "'none' cannot be found.*the path and video_folder"),
        ("../x", {}, "lies outside"),
        ("empty", {}, "'empty' is a folder without image files"),
        ("clip", {"start_frame": 12}, "selects none of the 12 frames"),
        ("clip", {"start_time": 3, "end_time": 3}, "selects none"),
        ("clip", {"start_frame": -1}, "selects none"),
        ("clip", {"fps": 0}, "0 frames per second"),
        ("clip", {"fps": "two"}, "\"fps\" is 'two'"),
        ("clip", {"end_time": float("nan")}, "nan, not a finite number"),
    ],
)
def test_bad_videos(folder, video, clip, reason):
    (folder / "empty").mkdir()
    with pytest.raises(MediaError, match=reason) as caught:
        load_frames(video, folder, clip=clip)
    assert caught.value.remedy


def test_a_missing_decoder_is_the_machines_fault(tmp_path, monkeypatch):
    """It stops a run: no sample is set aside for it."""
    monkeypatch.setitem(sys.modules, "decord", None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    for read in (load_frames, count_frames):
        reason = r"'a.mp4' is a video file: .*decord.*pip install 'cambrian-gaze\[video\]'.*--video_backend.*folders"
        with pytest.raises(MachineError, match=reason):
            read("a.mp4", tmp_path, FrameSampling(video_backend="decord", video_timeout=0))
    monkeypatch.setitem(sys.modules, "av", None)
    reason = r"no decoder of video files; .*cambrian-gaze\[video\].*or: .*cambrian-gaze\[pyav\]"
    with pytest.raises(MachineError, match=reason):
        load_frames("a.mp4", tmp_path, FrameSampling(video_timeout=0))


def test_counts_are_those_of_the_frames_loaded(folder):
    for clip in ({}, {"fps": 3}, {"start_frame": 3, "end_frame": 6}, {"fps": 2, "start_time": 2, "end_time": 4.0}):
        assert count_frames("clip", folder, clip=clip) == len(load_frames("clip", folder, clip=clip))
    assert count_frames(["clip/frame_3.png", "missing.png"], folder, clip={"fps": 2}) == 1


def test_a_folder_of_frames_has_the_rate_of_its_source(tmp_path):
    for folder in ("TVQA/show", "plain/show"):
        for i in range(6):
            write_image(tmp_path / folder / f"{i}.png", (0, 40 * i, 0))
    assert count_frames("TVQA/show", tmp_path) == 2 and count_frames("show", tmp_path / "TVQA") == 2
    assert count_frames([f"TVQA/show/{i}.png" for i in range(6)], tmp_path) == 2
    assert count_frames("plain/show", tmp_path) == 6 == count_frames("TVQA/show", tmp_path, clip={"fps": 1})
    with pytest.raises(MediaError, match='the rate of its frames stands under "video_fps".*"fps"'):
        count_frames("plain/show", tmp_path, clip={"video_fps": 3})
