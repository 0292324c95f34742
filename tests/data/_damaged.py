"""A corpus of damaged records and media among good ones, and what is wrong with each row."""

import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cambrian_gaze.data.records.forms import IMAGE_KEYS, VIDEO_KEYS
from tests.data._stand_ins import png_header, turns
from tests.data._videos import write_video

HTML = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>gone</body></html>\n"


@dataclass
class Corpus:
    """Data files below `folder`, which is the media root too."""

    folder: Path
    files: list[Path] = field(default_factory=list)
    expected: dict[tuple[str, int], str] = field(default_factory=dict)
    """(file, row) of each damaged row → kind, see `inspection.KINDS`."""
    good: set[tuple[str, int]] = field(default_factory=set)
    """(file, row) of each row that can be used."""


class Builder:
    """Collects lines of one file and what each of them is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[tuple[bytes, str | None]] = []
        self.names = 0

    def line(self, raw: Any, kind: str | None) -> None:
        """A row as JSON, or as the bytes of a line; kind None is a good row."""
        self.lines.append((raw if isinstance(raw, bytes) else json.dumps(raw).encode(), kind))

    def image(self, path: str, kind: str | None = "undecodable") -> None:
        """A row with one image."""
        self.line({"id": str(len(self.lines)), "image": path, "conversations": turns("<image>\nRead B3", "B3 7")}, kind)

    def video(self, path: Any, kind: str | None = "undecodable", **clip: Any) -> None:
        """A row with a video."""
        row = {"id": str(len(self.lines)), "video": path, **clip, "conversations": turns("<video>\nB3?", "7")}
        self.line(row, kind)

    def file(self, content: bytes, suffix: str) -> str:
        """A media file; its name."""
        self.names += 1
        name = f"m{self.names}.{suffix}"
        (self.folder / name).write_bytes(content)
        return name


def encoded(kind: str, seed: int = 0) -> bytes:
    """A small noisy picture as a file."""
    noise = np.random.default_rng(seed).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return stream.getvalue()


def build(folder: Path) -> Corpus:
    """Writes everything. Over 300 damaged rows, a good one after every fourth."""
    media = folder / "media"
    media.mkdir(parents=True)
    builder = Builder(media)
    damaged_images(builder)
    damaged_paths(builder, folder)
    damaged_videos(builder)
    damaged_records(builder)
    return write(folder, media, builder)


def damaged_images(builder: Builder) -> None:
    for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif"), ("BMP", "bmp")):
        whole = encoded(kind)
        for twentieth in range(1, 19):
            builder.image(builder.file(whole[: len(whole) * twentieth // 20], suffix))
        builder.image(builder.file(b"\0" * len(whole), suffix))
        builder.image(builder.file(b"", suffix))
        builder.image(builder.file(b"\xde\xad\xbe\xef" + whole[4:], suffix))
    png = encoded("PNG", 1)
    for place in range(16, 29):  # size, depth, colour type … of the header, whose checksum no longer fits
        builder.image(builder.file(png[:place] + bytes([png[place] ^ 0xFF]) + png[place + 1 :], "png"))
    for suffix in ("jpg", "jpeg", "png", "webp", "gif", "tif", "bmp"):
        builder.image(builder.file(HTML, suffix))
        builder.image(builder.file(b"just a line of text\n", suffix))
        builder.image(builder.file(b"PK\x03\x04" + bytes(100), suffix))
    builder.image(builder.file(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "eps"))
    builder.image(builder.file(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg"))
    for size in ((60_000, 60_000), (20_000, 20_000), (1, 100_000_000), (2**31 - 1, 2**31 - 1)):
        builder.image(builder.file(png_header(*size), "png"))
    for kind, name in (("JPEG", "png"), ("PNG", "jpg"), ("WEBP", "jpg")):  # a wrong extension alone does no harm
        builder.image(builder.file(encoded(kind), name), None)


def damaged_paths(builder: Builder, folder: Path) -> None:
    media, outside = builder.folder, folder / "outside.png"
    outside.write_bytes(encoded("PNG"))
    for number in range(5):
        (media / f"escape{number}.png").symlink_to(outside)
        builder.image(f"escape{number}.png")
    (media / "escapes").symlink_to(folder)
    for path in ("../outside.png", "a/../../outside.png", "./../outside.png", "escapes/outside.png", str(outside)):
        builder.image(path)
    for path in ("/etc/passwd", "../../../../../../etc/passwd", "nul\0.png", "\0", "a/\0/b.png"):
        builder.image(path)
    for number in range(20):
        builder.image(f"nowhere/{number}.jpg", "missing")
    (media / "dangling.png").symlink_to(media / "nothing.png")
    (media / "loop.png").symlink_to(media / "loop.png")
    (media / "folder.png").mkdir()
    os.mkfifo(media / "pipe.png")
    builder.image("dangling.png", "missing")
    builder.image("m1.jpg/below-a-file.png", "missing")
    for path in ("loop.png", "folder.png", "pipe.png", "x" * 300 + ".png"):
        builder.image(path)
    with open(os.fsencode(media) + b"/\xff\xfe.png", "wb") as stream:
        stream.write(encoded("PNG"))
    builder.image(os.fsdecode(b"\xff\xfe.png"), "malformed")  # a name that is no text, as a lone surrogate
    builder.line(b'{"image": "\xff\xfe.png", "conversations": []}', "malformed")


def damaged_videos(builder: Builder) -> None:
    write_video(builder.folder / "good.mp4", [i / 10 for i in range(30)])
    whole = (builder.folder / "good.mp4").read_bytes()
    for tenth in range(1, 10):
        builder.video(builder.file(whole[: len(whole) * tenth // 10], "mp4"))
    for content in (b"", HTML, b"text " * 100, bytes(4000), b"\x1aE\xdf\xa3" + bytes(200), b"RIFF" + bytes(300)):
        builder.video(builder.file(content, "mp4"))
        builder.video(builder.file(content, "mkv"))
    builder.video("nowhere.mp4", "missing")
    builder.video("nowhere/", "missing")
    builder.video("../good.mp4")
    (builder.folder / "no-frames").mkdir()
    (builder.folder / "no-frames" / "notes.txt").write_text("none")
    builder.video("no-frames")
    (builder.folder / "frames").mkdir()
    for number in range(3):
        (builder.folder / "frames" / f"{number}.png").write_bytes(encoded("PNG"))
    (builder.folder / "frames" / "3.png").write_bytes(encoded("PNG")[:50])
    builder.video("frames")
    builder.video(["frames/0.png", "frames/9.png"], "missing")
    builder.video(["frames/0.png", "frames/3.png"])
    for clip in (
        {"start_time": 99},
        {"start_frame": 30},
        {"start_time": 2, "end_time": 1},
        {"end_frame": 0},
        {"start_time": "soon"},
        {"end_time": True},
        {"start_frame": -5},
    ):
        builder.video("good.mp4", **clip)
    for fps in (0, -2, "fast"):
        builder.video("frames", fps=fps, end_frame=2)
    builder.video("good.mp4", None, start_time=1, end_time=2)
    builder.video("frames", None, end_frame=3)


def damaged_records(builder: Builder) -> None:
    good = {"id": "x", "conversations": turns("Read B3", "7")}
    for raw in (1, 2.5, "text", None, True, [], [good], {}, {"id": "y"}):
        builder.line(raw, "malformed")
    lacking = ([{}], [{"from": "human"}], [{"value": "x"}], [{"from": 1, "value": "x"}])
    for talk in (None, {}, "hello", [], [1], [None], *lacking):
        builder.line({**good, "conversations": talk}, "malformed")
    for speaker in ("robot", "", "HUMAN", "\ud800"):
        builder.line({**good, "conversations": [{"from": speaker, "value": "x"}, *turns("a", "b")]}, "malformed")
    for key in ("image", "video"):
        for value in (1, {}, [1], ["a.png", ""], True, ["a.png", None], {"file": "x"}, "\udcff.png"):
            builder.line({**good, key: value}, "malformed")
        for nothing in ("", "None", "nan", None, [], [""], [None], {"bytes": None, "path": None}):
            builder.line({**good, key: nothing}, None)
    for key in ("images", "image_path", "photo", "picture", "videos", "video_path", "clip_file", "file_name"):
        builder.line({**good, key: "m1.mp4"}, "placeholders" if key in (*IMAGE_KEYS, *VIDEO_KEYS) else "malformed")
    builder.line({**good, "id": "\ud800"}, "malformed")
    for text in ("a", "b\ud800"):
        builder.line({**good, "conversations": [{"from": "human", "value": text}]}, "malformed")
    for order in (["gpt", "human"], ["human", "human", "gpt"], ["human", "gpt", "human"], ["system"], ["gpt"]):
        builder.line({**good, "conversations": [{"from": who, "value": "x"} for who in order]}, "malformed")
    builder.line({**good, "conversations": turns("Where?", "<image> there")}, "malformed")
    path = builder.file(encoded("PNG"), "png")
    builder.line({**good, "image": path}, None)  # one is put before the question
    for question, images in (("<image>", 0), ("<image><image>", 1), ("<image>", 2), ("<video>", 1)):
        for more in ("", " please"):
            row = {**good, "image": [path] * images, "conversations": turns(question + more, "7")}
            builder.line(row, "placeholders")
    for answer in ("", " ", "\n", "\t\r\n", "\u2003"):
        builder.line({**good, "conversations": turns("Read B3", answer)}, "empty_answer")
        builder.line({**good, "conversations": turns("Read B3", "7", "And?", answer)}, "empty_answer")
    whole = json.dumps(good).encode()
    for raw in (b'{"id": 1,,}', b"{'id': 1}", b"{", b"}", b'{"id": NaN', b"undefined", b"<html>", b"id,conversations"):
        builder.line(raw, "malformed")
    for cut in range(5, len(whole) - 1, 9):  # lines that were written in part, and the next one begun
        builder.line(whole[:cut], "malformed")
    for raw in (b'{"a": "\xff"}', b"\xff\xfe{", whole.replace(b"x", b"\xe9"), b"\x80" * 20):
        builder.line(raw, "malformed")
    for raw in (b"\0" * 40, whole[:20] + b"\0\0" + whole[20:], b"\0" + whole):
        builder.line(raw, "malformed")
    for key in ("id", "conversations", "image"):
        builder.line(whole[:-1] + f', "{key}": "again", "{key}": 2}}'.encode(), "malformed")
    builder.line(b'{"conversations": [{"from": "human", "from": "gpt", "value": "x"}]}', "malformed")
    for depth in (2_000, 100_000):
        builder.line(whole[:-1] + b', "deep": ' + b"[" * depth + b"]" * depth + b"}", "malformed")
        builder.line(b'{"a":' * depth + b"1" + b"}" * depth, "malformed")
    builder.line({**good, "conversations": turns("Read B3", "7" * (17 << 20))}, "malformed")
    builder.line(b'{"id": "' + b"x" * (17 << 20), "malformed")


def write(folder: Path, media: Path, builder: Builder) -> Corpus:
    """Three files: Unix lines that end within a row, a BOM and DOS lines, and one array (of what is valid JSON)."""
    corpus = Corpus(media)
    good = {"image": builder.file(encoded("PNG", 2), "png"), "conversations": turns("<image>\nRead B3", "B3 7")}
    lines = []
    for number, line in enumerate(builder.lines):
        lines.append(line)
        if number % 4 == 0:
            lines.append((json.dumps({"id": f"good {number}", **good}).encode(), None))
    unix, dos, array = lines[0::3], lines[1::3], lines[2::3]
    unix.append((b'{"id": "half", "conversations": [{"from": "hum', "malformed"))
    valid = []
    for raw, kind in array:
        try:
            json.loads(raw)
            valid.append((raw, kind))
        except (ValueError, RecursionError):
            dos.append((raw, kind))
    contents = {
        "unix.jsonl": b"\n".join(raw for raw, _ in unix),
        "dos.jsonl": b"\xef\xbb\xbf" + b"".join(raw + b"\r\n" for raw, _ in dos),
        "array.json": b"[\n" + b",\n".join(raw for raw, _ in valid) + b"\n]\n",
    }
    for name, rows in (("unix.jsonl", unix), ("dos.jsonl", dos), ("array.json", valid)):
        path = folder / name
        path.write_bytes(contents[name])
        corpus.files.append(path)
        for row, (_, kind) in enumerate(rows, 1):
            if kind is None:
                corpus.good.add((str(path), row))
            else:
                corpus.expected[str(path), row] = kind
    return corpus
