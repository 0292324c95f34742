"""Which frames are taken, and from where."""

import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.data.media import MediaError
from cambrian_gaze.data.video import FrameSampling, load_frames, sample_frames
from tests.data._stand_ins import write_image


def reds(frames) -> list[int]:
    return [frame.getpixel((0, 0))[0] for frame in frames]


@pytest.fixture
def folder(tmp_path):
    for i in range(12):
        write_image(tmp_path / "clip" / f"frame_{i}.png", (i, 0, 0))
    (tmp_path / "clip" / "notes.txt").write_text("no frame")
    return tmp_path


@pytest.mark.parametrize(
    ("count", "fps", "sampling", "expected"),
    [
        (10, 2.0, {}, [0, 2, 4, 6, 8]),
        (10, 1.0, {"video_fps": 5.0}, list(range(10))),
        (10, 1.0, {"video_max_frames": 4}, [0, 3, 6, 9]),
        (10, 5.0, {"video_max_frames": 4}, [0, 5]),
        (10, 5.0, {"video_max_frames": 4, "video_force_sample": True}, [0, 3, 6, 9]),
        (2, 1.0, {"video_max_frames": 4, "video_force_sample": True}, [0, 1]),
        (9, 30.0, {"video_max_frames": 1}, [0]),
    ],
)
def test_one_fps_up_to_the_cap_then_uniform(count, fps, sampling, expected):
    assert sample_frames(0, count, fps, FrameSampling(**sampling)) == expected


@given(
    st.integers(0, 50), st.integers(1, 3000), st.floats(0.1, 120), st.floats(0.1, 60), st.integers(1, 40), st.booleans()
)
def test_samples_are_ascending_distinct_and_in_range(start, count, source, fps, cap, force):
    indices = sample_frames(start, start + count, source, FrameSampling(fps, cap, force))
    assert 1 <= len(indices) <= cap and indices == sorted(set(indices))
    assert indices[0] == start and indices[-1] < start + count


def test_folders_are_sorted_by_number(folder):
    assert reds(load_frames("clip", folder)) == list(range(12))
    assert reds(load_frames("clip", folder, clip={"fps": 3})) == [0, 3, 6, 9]


def test_clips_by_time_and_by_frame(folder):
    assert reds(load_frames("clip", folder, clip={"fps": 2, "start_time": 2, "end_time": 4.0})) == [4, 6]
    assert reds(load_frames("clip", folder, clip={"start_frame": 3, "end_frame": 6})) == [3, 4, 5]
    assert reds(load_frames("clip", folder, clip={"start_frame": 10, "end_frame": 99})) == [10, 11]


def test_lists_keep_their_order_and_only_sampled_frames_are_read(folder):
    frames = ["clip/frame_3.png", "missing.png", "clip/frame_1.png"]
    assert reds(load_frames(frames, folder, clip={"fps": 2})) == [3, 1]
    with pytest.raises(MediaError, match="'missing.png' cannot be found.*--video_folder"):
        load_frames(frames, folder)


@pytest.mark.parametrize(
    ("video", "clip", "reason"),
    [
        ("none", {}, "'none' cannot be found.*--video_folder"),
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


def test_bad_sampling():
    with pytest.raises(ValueError, match="video_fps=0 and video_max_frames=8 must be positive"):
        FrameSampling(video_fps=0, video_max_frames=8)


def test_video_files_without_decord(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(MediaError, match="'a.mp4' is a video file: .*decord.*cambrian-gaze\[video\].*folder of frames"):
        load_frames("a.mp4", tmp_path)


class Reader:
    """As much of decord.VideoReader as is used: 60 frames at 30 fps, or damage."""

    def __init__(self, path, ctx, num_threads):
        if path.endswith("bad.mp4"):
            raise RuntimeError("moov atom not found")

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return np.zeros((2, 2, 3), dtype=np.uint8)

    def get_avg_fps(self):
        return 30.0

    def get_batch(self, indices):
        frames = np.stack([np.full((2, 2, 3), i, dtype=np.uint8) for i in indices])
        return types.SimpleNamespace(asnumpy=lambda: frames)


def test_video_files_with_decord(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", types.SimpleNamespace(VideoReader=Reader, cpu=lambda i: i))
    for name in ("good.mp4", "bad.mp4"):
        (tmp_path / name).write_bytes(b"x")
    assert reds(load_frames("good.mp4", tmp_path)) == [0, 30]
    assert reds(load_frames("good.mp4", tmp_path, clip={"start_time": 1})) == [30]
    with pytest.raises(MediaError, match="'bad.mp4' cannot be decoded .moov atom not found.*Remedy"):
        load_frames("bad.mp4", tmp_path)
    with pytest.raises(MediaError, match="frames of 2x2, more than 3 pixels"):
        load_frames("good.mp4", tmp_path, max_pixels=3)
