"""Which files decord would give other frames of than those asked for, told by real files of each order of frames."""

import json
import random
import struct
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cambrian_gaze.cli.main import main
from cambrian_gaze.data.media import containers, decoders
from cambrian_gaze.data.media.containers import MAX_SIBLINGS, has_open_groups
from cambrian_gaze.data.media.decoders import open_video
from cambrian_gaze.data.media.image_files import MediaError
from tests.data._stand_ins import turns, write_jsonl
from tests.data._videos import BITS, BLOCK, HEIGHT, write_video

FRAMES = 80
X264 = "keyint=27:min-keyint=5:scenecut=0:b-adapt=0:bframes=3"
X265 = "log-level=none:keyint=25:min-keyint=25"
STREAMS = {
    "h264": ("libx264", {"x264-params": X264}),
    "h264_open": ("libx264", {"x264-params": f"{X264}:open-gop=1"}),
    "hevc": ("libx265", {"x265-params": f"{X265}:open-gop=0"}),
    "hevc_open": ("libx265", {"x265-params": X265}),
    "mpeg4": ("mpeg4", {"g": "12", "bf": "0"}),
    "mpeg4_open": ("mpeg4", {"g": "12", "bf": "2"}),
    "mpeg2": ("mpeg2video", {"g": "12", "bf": "0"}),
    "mpeg2_open": ("mpeg2video", {"g": "12", "bf": "2"}),
}
WANTED = ([25], [24], [60], [79], [0], [0, 24], [0, 60, 79], [3, 51, 60], list(range(20, 30)))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Writes each stream once; its path by name."""
    folder = tmp_path_factory.mktemp("films")

    def path(name: str) -> Path:
        codec, options = STREAMS[name.split(".")[0]]
        try:
            av.codec.Codec(codec, "w")
        except ValueError:
            pytest.skip(f"PyAV has no encoder {codec} here")
        if not (folder / name).exists():
            write_video(folder / name, [i / 25 for i in range(FRAMES)], codec, Fraction(1, 25), **options)
        return folder / name

    return path


def number(frame: np.ndarray) -> int:
    bits = frame[HEIGHT // 2, BLOCK // 2 :: BLOCK].mean(axis=1) > 128
    return int(sum(1 << bit for bit in range(BITS) if bits[bit]))


def taken(path: Path, backend: str) -> list[list[int]]:
    video = open_video(str(path), backend)
    return [[number(frame) for frame in video.frames(wanted)] for wanted in WANTED]


def told(path: Path) -> bool:
    """What the tables of a file tell beside the times and keyframes that decord reads."""
    decord = pytest.importorskip("decord")
    reader = decord.VideoReader(str(path))
    starts = reader.get_frame_timestamp(list(range(len(reader))))[:, 0]
    return has_open_groups(str(path), starts, np.asarray(reader.get_key_indices()))


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("stream", STREAMS)
def test_decord_is_refused_open_groups_alone(film, stream, container, monkeypatch):
    """And only where it needs to be: without the refusal, decord gives other frames of just these files."""
    path = film(f"{stream}.{container}")
    assert taken(path, "pyav") == list(WANTED)
    if not stream.endswith("open"):
        assert taken(path, "decord") == list(WANTED)
        return
    with pytest.raises(MediaError, match="groups of pictures are open.*--video_backend auto or pyav"):
        open_video(str(path), "decord")
    monkeypatch.setattr(decoders, "has_open_groups", lambda *_: False)
    assert taken(path, "decord") != list(WANTED)


def test_avi_without_b_frames_is_for_both(film):
    """With B-frames such files give no times, for which decord is refused them."""
    assert taken(film("mpeg4.avi"), "decord") == taken(film("mpeg4.avi"), "pyav") == list(WANTED)


def test_windows_media_is_for_pyav_alone(tmp_path):
    path = tmp_path / "film.wmv"
    write_video(path, [i / 25 for i in range(FRAMES)], "wmv2", Fraction(1, 25), g="12")
    assert taken(path, "pyav") == list(WANTED)
    with pytest.raises(MediaError, match=r"other frames of ASF \(WMV\).*--video_backend auto or pyav"):
        open_video(str(path), "decord")


def remuxed(path: Path, to: Path, first_key: int = 0, **options: str) -> Path:
    """The stream from one of its keyframes on, in another container, as it is."""
    with av.open(str(path)) as source, av.open(str(to), "w", options=options) as target:
        stream = source.streams.video[0]
        copy, seen = target.add_stream_from_template(stream), -1
        for packet in source.demux(stream):
            seen += packet.is_keyframe and packet.size > 0
            if packet.size and seen >= first_key:
                packet.stream = copy
                target.mux(packet)
    return to


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_films_cut_at_an_open_group_are_refused(film, container, tmp_path):
    """The frames before the keyframe cannot be decoded then, and decord counts them."""
    cut = remuxed(film("h264_open.mp4"), tmp_path / f"cut.{container}", first_key=2)
    assert told(cut)
    assert not told(remuxed(film("h264.mp4"), tmp_path / f"other.{container}", first_key=2))


def test_without_tables_the_codec_decides(film, tmp_path):
    """Fragmented MP4 and Matroska without an index do not tell: refused are codecs whose groups are usually open."""
    for name, is_open in (("hevc_open", True), ("mpeg4_open", True), ("h264", False)):
        path = film(f"{name}.mp4")
        assert told(remuxed(path, tmp_path / f"{name}.mp4", movflags="frag_keyframe+empty_moov")) == is_open
        bare = tmp_path / f"{name}.mkv"
        content = film(f"{name}.mkv").read_bytes()
        assert content.count(b"\x1c\x53\xbb\x6b") == 2  # One in the list of parts at the start.
        bare.write_bytes(content.replace(b"\x1c\x53\xbb\x6b", b"\x1c\x53\xbb\x6c"))
        assert has_open_groups(str(bare), np.arange(FRAMES) / 25, np.array([0, 25])) == is_open


def test_keyframes_of_groups_of_samples_and_of_none(film, tmp_path):
    """Some writers list open keyframes as a group "rap " of samples, beside the list of the closed ones."""
    path = tmp_path / "film.mp4"
    path.write_bytes(with_keyframes(film("h264_open.mp4").read_bytes(), listed=[1], grouped=[]))
    assert not told(path)
    path.write_bytes(with_keyframes(film("h264_open.mp4").read_bytes(), listed=[1], grouped=[26, 53]))
    assert told(path)
    path.write_bytes(film("h264.mp4").read_bytes().replace(b"stss", b"free"))  # Every frame is said to be a keyframe.
    assert told(path)


def with_keyframes(content: bytes, listed: list[int], grouped: list[int]) -> bytes:
    """An MP4, its boxes of media data first, with other keyframes; numbers from 1."""
    start, end, parents = 0, len(content), []
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stss"):
        while content[start + 4 : start + 8] != kind:
            start += struct.unpack_from(">I", content, start)[0]
        end = start + struct.unpack_from(">I", content, start)[0]
        parents, last, start = [*parents, start], start, start + 8
    gaps = np.diff([0, *grouped]) - 1
    runs = [run for gap in gaps.tolist() for run in ((gap, 0), (1, 1))]
    new = struct.pack(f">I4sII{len(listed)}I", 16 + 4 * len(listed), b"stss", 0, len(listed), *listed)
    new += struct.pack(">I4sI4sIIB", 25, b"sgpd", 1 << 24, b"rap ", 1, 1, 0)
    new += struct.pack(">I4sI4sI", 20 + 8 * len(runs), b"sbgp", 0, b"rap ", len(runs))
    new += b"".join(struct.pack(">II", *run) for run in runs)
    whole = bytearray(content[:last] + new + content[end:])
    for parent in parents[:-1]:
        struct.pack_into(">I", whole, parent, struct.unpack_from(">I", whole, parent)[0] + len(new) - (end - last))
    return bytes(whole)


def test_delays_may_be_negative(film, tmp_path):
    """In the second version of their table, by which the first frame is not delayed."""
    for name, is_open in (("h264_open", True), ("h264", False)):
        path = remuxed(film(f"{name}.mp4"), tmp_path / f"{name}.mp4", movflags="negative_cts_offsets")
        content = path.read_bytes()
        assert content[content.index(b"ctts") + 4] == 1
        assert told(path) == is_open


def test_a_segment_may_leave_its_size_open(film, tmp_path):
    content = film("h264_open.mkv").read_bytes()
    at = content.index(b"\x18\x53\x80\x67") + 4
    assert content[at] == 1  # Of eight bytes.
    (tmp_path / "film.mkv").write_bytes(content[:at] + b"\xff" + content[at + 8 :])
    keys = np.array([0, 25, 52])  # Shown as frames 0, 27 and 54.
    assert has_open_groups(str(tmp_path / "film.mkv"), np.arange(FRAMES) / 25, keys)


@pytest.mark.parametrize("name", ["h264_open.mp4", "mpeg2_open.mov", "h264_open.mkv"])
def test_damaged_files_end_soon_without_an_error(film, name, tmp_path):
    """Cuts anywhere, bytes changed anywhere in the tables."""
    content = film(name).read_bytes()
    tables = content.index(b"moov") if b"moov" in content else 0
    generator = random.Random(0)
    starts, keys = np.arange(FRAMES) / 25, np.array([0, 25, 52])
    began = time.process_time()
    for _ in range(1500):
        damaged = bytearray(content)
        for _ in range(generator.randint(0, 8)):
            value = generator.choice((0, 1, 0x7F, 0xFF, generator.randrange(256)))
            damaged[generator.randrange(tables, len(content))] = value
        if generator.random() < 0.3:
            del damaged[generator.randrange(len(damaged)) :]
        (tmp_path / name).write_bytes(damaged)
        assert has_open_groups(str(tmp_path / name), starts, keys) in (True, False)
    assert time.process_time() - began < 30


def box(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    return struct.pack(">I4s", len(content) + 8 if size is None else size, kind) + content


NESTED = b""
for _ in range(2000):
    NESTED = box(b"moov", NESTED)
DAMAGED = {
    "empty": b"",
    "a size that includes nothing": box(b"ftyp", b"") + box(b"moov", b"", size=3) * 1000,
    "up to the end": box(b"ftyp", b"") + box(b"mdat", b"", size=0) + box(b"moov", b""),
    "64 bits": box(b"ftyp", b"") + box(b"mdat", b"\xff" * 8, size=1),
    "64 bits of nothing": box(b"ftyp", b"") + box(b"mdat", bytes(8), size=1),
    "64 bits cut": box(b"ftyp", b"") + box(b"mdat", b"", size=1),
    "beyond the end": box(b"ftyp", b"") + box(b"moov", b"trak", size=2**32 - 1),
    "nested": box(b"ftyp", b"") + NESTED,
    "many": box(b"ftyp", b"") + box(b"free", b"") * (3 * MAX_SIBLINGS),
    "matroska": b"\x1a\x45\xdf\xa3",
    "matroska of nothing": b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\x80",
    "matroska of zeros": b"\x1a\x45\xdf\xa3\x80" + bytes(100),
    "matroska within itself": b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\xff" * 1000,
    "matroska, many": b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff" + b"\xec\x80" * (3 * MAX_SIBLINGS),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_nothing_is_concluded_of_damaged_headers(content, tmp_path):
    (tmp_path / "film").write_bytes(content)
    began = time.process_time()
    assert not has_open_groups(str(tmp_path / "film"), np.zeros(0), np.zeros(0, dtype=np.int64))
    assert time.process_time() - began < 5


def test_no_more_than_so_many_boxes_are_read(film, tmp_path, monkeypatch):
    content, path = film("h264_open.mp4").read_bytes(), tmp_path / "film.mp4"
    path.write_bytes(box(b"free", b"") * 200 + content)
    nothing = np.zeros(0), np.zeros(0, dtype=np.int64)  # MP4 has tables of its own.
    assert has_open_groups(str(path), *nothing)
    monkeypatch.setattr(containers, "MAX_SIBLINGS", 100)
    assert not has_open_groups(str(path), *nothing)


def test_media_data_are_not_read(film, tmp_path):
    """Ten gigabytes of them, a hole in the file, before the tables."""
    content = film("h264_open.mp4").read_bytes()
    at = content.index(b"moov") - 4
    path = tmp_path / "long.mp4"
    with open(path, "wb") as file:
        file.write(box(b"ftyp", b"") + struct.pack(">I4sQ", 1, b"mdat", 10 * 2**30))
        file.seek(8 + 10 * 2**30)
        file.write(content[at:])
    began = time.process_time()
    assert has_open_groups(str(path), np.zeros(0), np.zeros(0, dtype=np.int64))
    assert time.process_time() - began < 1


def test_data_check_names_such_a_file(film, tmp_path, capsys):
    (tmp_path / "film.mp4").write_bytes(film("h264_open.mp4").read_bytes())
    rows = [{"id": "1", "video": "film.mp4", "conversations": turns("<video>?", "x")}]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    command = ["data", "check", str(file), "--video_folder", str(tmp_path), "--workers", "0"]
    assert main(command) == 0
    assert main([*command, "--video_backend", "decord", "--json", str(tmp_path / "report.json")]) == 1
    assert "'film.mp4' cannot be decoded: its groups of pictures are open" in capsys.readouterr().out
    assert "--video_backend auto or pyav" in json.dumps(json.loads((tmp_path / "report.json").read_text()))
    assert main([*command, "--media", "decode", "--video_backend", "pyav"]) == 0
