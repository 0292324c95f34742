"""Real video files of constant and variable frame rate, through each decoder: the right frames at the right times."""

from fractions import Fraction

import numpy as np
import pytest

from cambrian_gaze.data.media import decoders
from cambrian_gaze.data.media.decoders import count_in_file, frames_of_file, open_video
from cambrian_gaze.data.media.frame_sampling import DECODERS, FrameSampling
from cambrian_gaze.data.media.image_files import MAX_PIXELS, MediaError
from cambrian_gaze.data.media.video import count_frames, load_frames
from tests.data._videos import BITS, BLOCK, HEIGHT, number_of, numbered, write_video

SLIDES = np.cumsum([0.0, *[1 / 30] * 60, *[2.5] * 6, *[0.1] * 30, *[1 / 30] * 40]).tolist()
"""Variable: film, slides, slow film, film; 21 seconds, in which an average rate would be wrong almost everywhere."""

VIDEOS = {
    "cfr30.mp4": ([i / 30 for i in range(150)], {}),
    "cfr24.mp4": ([i * 1001 / 24_000 for i in range(200)], {}),
    "cfr60.mp4": ([i / 60 for i in range(400)], {"preset": "ultrafast", "g": "50", "bf": "3"}),
    "slow.mp4": ([i * 2.5 for i in range(7)], {}),
    "single.mp4": ([0.0], {}),
    "variable.mp4": (SLIDES, {}),
    "late.mp4": ([3 + i / 25 for i in range(100)], {}),
    "cfr25.mkv": ([i / 25 for i in range(100)], {}),
    "variable.mkv": (SLIDES, {}),
    "vp9.webm": ([i / 10 for i in range(40)], {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, (times, options) in VIDEOS.items():
        write_video(folder / name, times, **options)
    return folder


def on_the_screen(times: list[float], fps: float, cap: int, start: float = 0.0, end: float | None = None) -> list[int]:
    """What a viewer sees at each tick of a clock, looked up the slow way."""
    times = [time - times[0] for time in times]
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    end = times[-1] + usual if end is None else end

    def seen(moment: float) -> int:
        return max(i for i, time in enumerate(times) if time <= moment + 1e-4)

    first = seen(start)
    last = max(i for i, time in enumerate(times) if time < end - 1e-4)
    stop = times[last + 1] if last + 1 < len(times) else times[-1] + usual
    moments = np.arange(times[first], stop - 1e-4, 1 / fps)
    taken = sorted({min(seen(moment), last) for moment in moments})
    if len(taken) > cap:
        count = min(cap, last + 1 - first)
        taken = sorted({min(seen(moment), last) for moment in np.linspace(times[first], times[last], count)})
    return taken


@pytest.mark.parametrize("backend", DECODERS)
@pytest.mark.parametrize("name", VIDEOS)
def test_frames_are_those_on_the_screen(folder, name, backend):
    times, _ = VIDEOS[name]
    for fps, cap in ((1.0, 64), (2.0, 64), (1.0, 3), (4.0, 10)):
        sampling = FrameSampling(fps, cap, video_backend=backend, video_timeout=0)
        numbers = [number_of(frame) for frame in load_frames(name, folder, sampling)]
        assert numbers == on_the_screen(times, fps, cap)
        assert count_frames(name, folder, sampling) == len(numbers)


@pytest.mark.parametrize("backend", DECODERS)
@pytest.mark.parametrize("name", ["cfr24.mp4", "variable.mp4", "late.mp4", "cfr25.mkv"])
def test_clips_of_video_files(folder, name, backend):
    times, _ = VIDEOS[name]
    sampling = FrameSampling(2.0, 64, video_backend=backend, video_timeout=0)

    def taken(**clip) -> list[int]:
        numbers = [number_of(frame) for frame in load_frames(name, folder, sampling, clip)]
        assert count_frames(name, folder, sampling, clip) == len(numbers)
        return numbers

    for start, end in ((0.0, 2.0), (1.3, 3.05), (0.5, 0.9), (2.02, 100.0)):
        expected = on_the_screen(times, 2.0, 64, start, min(end, times[-1] - times[0] + 9))
        assert taken(start_time=start, end_time=end) == expected
    assert taken(start_frame=31, end_frame=33)[0] == 31
    assert taken(start_frame=95) == [n for n in taken(start_frame=95, end_frame=10_000) if n >= 95]
    with pytest.raises(MediaError, match=f"'{name}': the clip .start_time 1000. selects none of the {len(times)}"):
        taken(start_time=1000)


@pytest.mark.parametrize("backend", DECODERS)
def test_every_frame_is_found_wherever_one_starts(folder, backend):
    """Seeking lands on keyframes; what is given is the frame that was asked for."""
    video = open_video(str(folder / "cfr60.mp4"), backend)
    generator = np.random.default_rng(0)
    for count in (1, 2, 5, 60):
        wanted = np.unique(generator.integers(0, 400, count)).tolist()
        assert [number_of_array(frame) for frame in video.frames(wanted)] == wanted


def test_containers_that_seek_by_decoding_time(tmp_path):
    """In a transport stream a keyframe is decoded some frames before it is shown, since B-frames are put in order."""
    write_video(tmp_path / "stream.ts", [i / 25 for i in range(75)])
    video = open_video(str(tmp_path / "stream.ts"), "pyav")
    for wanted in ([30], [25], [0, 24], [0, 25], [3, 51, 60], [74]):
        assert [number_of_array(frame) for frame in video.frames(wanted)] == wanted
    write_video(tmp_path / "stream.m2ts", [i / 25 for i in range(5)])
    for name in ("stream.ts", "stream.m2ts"):
        with pytest.raises(MediaError, match=f"'{name}' cannot be decoded: .*transport stream.*auto or pyav"):
            list(frames(name, tmp_path, "decord"))


def number_of_array(frame: np.ndarray) -> int:
    bits = frame[HEIGHT // 2, BLOCK // 2 :: BLOCK].mean(axis=1) > 128
    return int(sum(1 << bit for bit in range(BITS) if bits[bit]))


def test_the_decoders_show_the_same_colours(folder):
    a, b = (list(frames("cfr30.mp4", folder, backend)) for backend in DECODERS)
    assert len(a) == len(b) == 5
    for one, other in zip(a, b, strict=True):
        assert np.abs(one.astype(int) - other).mean() < 2
        assert one.shape == numbered(0).shape and one.dtype == np.uint8


def frames(name, folder, backend, clip=None, max_pixels=MAX_PIXELS, **values):
    sampling = FrameSampling(video_backend=backend, video_timeout=0, **values)
    return frames_of_file(name, str(folder / name), sampling, clip or {}, max_pixels)


@pytest.mark.parametrize("backend", DECODERS)
def test_films_of_a_turned_camera_stand_upright(folder, backend, tmp_path):
    """A display matrix of 90 degrees, as telephones write it, put into the track header."""
    content = bytearray((folder / "cfr30.mp4").read_bytes())
    matrix = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    turned = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
    content[matrix : matrix + 36] = turned
    (tmp_path / "turned.mp4").write_bytes(content)
    frame = next(frames("turned.mp4", tmp_path, backend))
    (plain,) = list(frames("cfr30.mp4", folder, backend, {"end_frame": 1}))
    assert frame.shape == (BITS * BLOCK, HEIGHT, 3)
    assert np.abs(frame.astype(int) - np.rot90(plain, -1)).mean() < 2


@pytest.mark.parametrize("backend", DECODERS)
def test_damaged_and_foreign_files_are_media_errors(folder, backend, tmp_path):
    whole = (folder / "cfr30.mp4").read_bytes()
    for name, content in {
        "cut.mp4": whole[: len(whole) // 2],
        "text.mp4": b"no film at all" * 100,
        "page.mp4": b"<!DOCTYPE html><html><body>404</body></html>",
        "zeros.mp4": bytes(5000),
    }.items():
        (tmp_path / name).write_bytes(content)
        for read in (lambda name: list(frames(name, tmp_path, backend)), lambda name: count(name, tmp_path, backend)):
            with pytest.raises(MediaError, match=f"'{name}' cannot be decoded") as caught:
                read(name)
            assert caught.value.remedy


def count(name, folder, backend):
    return count_in_file(name, str(folder / name), FrameSampling(video_backend=backend), {})


def test_files_without_times_are_for_pyav_alone(tmp_path):
    times = [i / 25 for i in range(50)]
    write_video(tmp_path / "old.avi", times, codec="mpeg4", base=Fraction(1, 25), g="12", bf="2")
    with pytest.raises(MediaError, match="'old.avi' cannot be decoded: .*no time for its frames.*auto or pyav"):
        list(frames("old.avi", tmp_path, "decord"))
    assert [number_of_array(frame) for frame in frames("old.avi", tmp_path, "pyav", video_fps=2.0)] == [0, 12, 25, 37]


@pytest.mark.parametrize("backend", DECODERS)
def test_limits(folder, backend, monkeypatch):
    with pytest.raises(MediaError, match="'cfr30.mp4' has frames of 160x96, more than the 100 pixels allowed"):
        list(frames("cfr30.mp4", folder, backend, max_pixels=100))
    monkeypatch.setattr(decoders, "MAX_SAMPLED_PIXELS", 160 * 96 * 4)
    with pytest.raises(MediaError, match="'cfr30.mp4': 5 frames of 160x96 exceed 61440 pixels"):
        list(frames("cfr30.mp4", folder, backend))
    assert len(list(frames("cfr30.mp4", folder, backend, video_max_frames=4))) == 4
    monkeypatch.setattr(decoders, "MAX_SOURCE_FRAMES", 100)
    with pytest.raises(MediaError, match="'cfr30.mp4' cannot be decoded: it has more than 100 frames"):
        count("cfr30.mp4", folder, backend)
