"""Containers that state more than they hold, and files with several video tracks, through every decoder."""

import logging
import struct

import av
import numpy as np
import pytest

from cambrian_gaze.data.media import decoder_notes
from cambrian_gaze.data.media.frame_sampling import BACKENDS, FrameSampling
from cambrian_gaze.data.media.image_files import MediaError
from cambrian_gaze.data.media.video import count_frames, load_frames
from cambrian_gaze.data.media.wholeness import Stated, stated, what_is_missing

CODECS = {"mp4": "libx264", "mov": "libx264", "mkv": "libx264", "webm": "libvpx", "avi": "mpeg4"}
STILL, FILM = ("mjpeg", (32, 32), 1), ("libx264", (64, 96), 30)


def write(path, tracks, **options):
    """Noise at ten frames a second; `tracks`: (codec, (height, width), frames, disposition)."""
    generator = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        streams = []
        for codec, (height, width), frames, *disposition in tracks:
            stream = container.add_stream(codec, rate=10 if frames > 1 else 1)
            stream.height, stream.width = height, width
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            if disposition:
                stream.disposition = disposition[0]
            streams.append((stream, frames))
        for number in range(max(frames for _, frames in streams)):
            for stream, frames in streams:
                if number < frames:
                    pixels = generator.integers(0, 256, (stream.height, stream.width, 3), dtype=np.uint8)
                    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                    frame.pts = number
                    container.mux(stream.encode(frame))
        for stream, _ in streams:
            container.mux(stream.encode())


def sampling(backend):
    return FrameSampling(video_backend=backend, video_timeout=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "options"), [*((kind, {}) for kind in CODECS), ("mp4", {"movflags": "faststart"})])
def test_a_file_that_was_cut_off_is_an_error(tmp_path, kind, options, backend):
    path = tmp_path / f"film.{kind}"
    write(path, [(CODECS[kind], (64, 96), 100)], **options)
    assert len(load_frames(path.name, tmp_path, sampling(backend))) == 10
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    for read in (load_frames, count_frames):
        with pytest.raises(MediaError, match=f"'{path.name}' cannot be decoded: its file is shorter than its header"):
            read(path.name, tmp_path, sampling(backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "avi"])
def test_a_header_that_states_more_than_is_there(tmp_path, kind, backend):
    """Nothing is cut off; six seconds under a header that says ten."""
    path = tmp_path / f"film.{kind}"
    write(path, [(CODECS[kind], (64, 96), 60)])
    content = bytearray(path.read_bytes())
    if kind == "mp4":
        for name in (b"mvhd", b"mdhd"):
            at = content.index(name) + 4
            scale, _ = struct.unpack_from(">II", content, at + 12)
            struct.pack_into(">I", content, at + 16, 10 * scale)
    elif kind == "avi":
        scale, rate = struct.unpack_from("<II", content, content.index(b"vids") + 20)
        struct.pack_into("<I", content, content.index(b"vids") + 32, 10 * rate // scale)
    else:
        at = content.index(b"\x44\x89\x88")
        struct.pack_into(">d", content, at + 3, 10_000.0)
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"its header states 10\.0 seconds, and it holds (5\.9|6\.0|6\.1)"):
        load_frames(path.name, tmp_path, sampling(backend))


def test_sound_that_lasts_longer_is_not_missing_film(tmp_path):
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        film, sound = container.add_stream("libx264", rate=10), container.add_stream("pcm_s16le", rate=8000)
        film.height, film.width, film.pix_fmt = 64, 96, "yuv420p"
        for _ in range(20):
            container.mux(film.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")))
        container.mux(film.encode())
        for number in range(60):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, number * 800
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert stated(str(path)).seconds > 5
    for backend in BACKENDS:
        assert len(load_frames(path.name, tmp_path, sampling(backend))) == 2


def test_of_other_and_damaged_files_nothing_is_concluded(tmp_path):
    for content in (b"", b"RIFF", b"\x1a\x45\xdf\xa3", b"\0\0\0\x18ftypisom" + bytes(3), b"RIFF" + bytes(4) + b"AVI "):
        (tmp_path / "a").write_bytes(content)
        assert what_is_missing(stated(str(tmp_path / "a"))._replace(torn=False), 1.0) is None
    assert what_is_missing(Stated(seconds=100.0), 96.0) is None
    assert what_is_missing(Stated(seconds=100.0), 94.0) == "its header states 100.0 seconds, and it holds 94.0"


@pytest.mark.parametrize(
    ("name", "tracks"),
    [
        ("still_first.mkv", [STILL, FILM]),
        ("still_first.mp4", [STILL, FILM]),
        ("default_still.mkv", [(*STILL, 1), FILM]),
        ("cover.mp4", [(*STILL, 0x400), FILM]),
        ("cover_last.mp4", [FILM, ("mjpeg", (320, 320), 1, 0x400)]),
        ("two_stills.mkv", [STILL, ("mjpeg", (40, 40), 1), FILM]),
    ],
)
def test_the_film_is_taken_and_no_still(tmp_path, name, tracks):
    write(tmp_path / name, tracks)
    for backend in BACKENDS:
        frames = load_frames(name, tmp_path, sampling(backend))
        assert (len(frames), frames[0].size) == (3, (96, 64))


def test_of_two_films_all_decoders_give_the_same_or_say_so(tmp_path):
    write(tmp_path / "two.mp4", [("libx264", (32, 48), 30), ("libx264", (128, 192), 30)])
    best, auto = (load_frames("two.mp4", tmp_path, sampling(backend)) for backend in ("pyav", "auto"))
    assert [frame.tobytes() for frame in best] == [frame.tobytes() for frame in auto]
    try:
        assert load_frames("two.mp4", tmp_path, sampling("decord"))[0].size == best[0].size
    except MediaError as error:
        assert "takes another than the main one" in error.reason


def test_a_file_with_a_cover_alone_is_no_video(tmp_path):
    write(tmp_path / "cover.mp4", [(*STILL, 0x400)])
    for backend in ("auto", "pyav"):
        with pytest.raises(MediaError, match="'cover.mp4' has no video but attached pictures"):
            load_frames("cover.mp4", tmp_path, sampling(backend))


@pytest.mark.parametrize("timeout", [0.0, 60.0])
def test_auto_takes_pyav_where_decord_would_give_other_frames_and_counts(tmp_path, monkeypatch, caplog, timeout):
    monkeypatch.setattr(decoder_notes, "_OPENED", set())
    monkeypatch.setattr(decoder_notes, "_INSTEAD", set())
    write(tmp_path / "a.mp4", [FILM])
    write(tmp_path / "b.ts", [FILM])
    auto = FrameSampling(video_timeout=timeout)
    with caplog.at_level(logging.WARNING, "cambrian_gaze"):
        for name in ("a.mp4", "b.ts", "b.ts"):
            expected = load_frames(name, tmp_path, sampling("pyav"))
            assert len(load_frames(name, tmp_path, auto)) == len(expected) == count_frames(name, tmp_path, auto) == 3
    assert decoder_notes.decoder_counts() == (2, 1)
    (said,) = caplog.messages
    assert "PyAV decodes 1 of 2 video files" in said and "'b.ts': decord gives other frames" in said
