"""Frames by time: constant and variable frame rates, caps, clips."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.data.media.frame_sampling import FrameSampling, Timeline, sample_frames, select_frames
from cambrian_gaze.data.media.image_files import MediaError


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
    assert sample_frames(Timeline.regular(count, fps), 0, count, FrameSampling(**sampling)) == expected


@given(
    st.lists(st.floats(0.005, 3), min_size=1, max_size=60),
    st.integers(0, 20),
    st.integers(0, 20),
    st.floats(0.1, 60),
    st.integers(1, 40),
    st.booleans(),
)
def test_samples_are_ascending_distinct_and_in_range(gaps, before, after, fps, cap, force):
    gaps = [0.04] * before + gaps + [0.04] * after
    timeline = Timeline(np.cumsum([0.0, *gaps[:-1]]), float(sum(gaps)))
    end = len(gaps) - after
    indices = sample_frames(timeline, before, end, FrameSampling(fps, cap, force))
    assert 1 <= len(indices) <= cap and indices == sorted(set(indices))
    assert indices[0] == before and indices[-1] < end


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.sampled_from([0.5, 1.0, 2.0]))
def test_frames_are_those_on_the_screen_at_each_tick(hundredths, fps):
    """Against a clock that ticks through a video of variable frame rate, frame by frame."""
    starts = np.cumsum([0, *hundredths[:-1]])
    total, tick, shown = sum(hundredths), round(100 / fps), []
    for now in range(0, total, tick):
        shown.append(max(i for i, start in enumerate(starts) if start <= now))
    timeline = Timeline(starts / 100, total / 100)
    assert sample_frames(timeline, 0, len(starts), FrameSampling(fps, 10_000)) == sorted(set(shown))


def test_rounded_times_are_the_same_times():
    """30000/1001 frames per second, as 32-bit floats and shifted by a little, against exact ones."""
    exact = np.arange(3000) * 1001 / 30_000
    rounded = exact.astype(np.float32).astype(np.float64) + 3e-4
    for sampling in (FrameSampling(video_max_frames=1000), FrameSampling(video_max_frames=37)):
        clips = ({}, {"start_time": 3003 / 1000, "end_time": 60.06})
        for clip in clips:
            a, b = (select_frames(Timeline.of_starts(t), clip, sampling, "v") for t in (exact, rounded))
            assert a == b


def test_timeline_from_unordered_starts():
    timeline = Timeline.of_starts(np.array([5.2, 5.0, 5.1, 6.0]))
    assert np.allclose(timeline.times, [0, 0.1, 0.2, 1.0]) and timeline.end == pytest.approx(1.1)
    assert Timeline.of_starts(np.array([7.0])).end == 1.0


def test_clips_by_time_begin_with_the_frame_on_the_screen():
    timeline = Timeline(np.array([0.0, 4.0, 4.5, 9.0]), 10.0)
    sampling = FrameSampling(100, 64)
    for clip, expected in (
        ({"start_time": 4.2, "end_time": 9.0}, [1, 2]),
        ({"start_time": 2}, [0, 1, 2, 3]),
        ({"end_time": 4.0}, [0]),
        ({"start_time": 9.99}, [3]),
        ({"start_time": 1, "end_frame": 2}, [0, 1]),
    ):
        assert select_frames(timeline, clip, sampling, "v") == expected
    with pytest.raises(MediaError, match=r"v: the clip .start_time 10. selects none of the 4 frames, 10 seconds"):
        select_frames(timeline, {"start_time": 10}, sampling, "v")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"video_fps": 0, "video_max_frames": 8}, "video_fps=0 and video_max_frames=8 must be positive"),
        ({"video_backend": "opencv"}, "video_backend='opencv' is unknown; use one of auto, decord, pyav"),
        ({"video_timeout": -1}, "video_timeout=-1 must be a number of seconds"),
    ],
)
def test_bad_sampling(values, reason):
    with pytest.raises(ValueError, match=reason):
        FrameSampling(**values)
