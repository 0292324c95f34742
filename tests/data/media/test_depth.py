"""Bits beyond eight: as many as are in use, from black to white."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cambrian_gaze.data.media.image_files import load_image, to_rgb

COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels → PNG's colour type."""


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits per channel; `values` [H, W, channels]."""
    height, width, channels = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, COLOURS[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tiff16(values: np.ndarray, order: str) -> bytes:
    """An uncompressed TIFF of 16-bit RGB, little-endian (`<`) or big-endian (`>`)."""
    height, width, channels = values.shape
    data = values.astype(f"{order}u2").tobytes()
    tags = ((256, width), (257, height), (258, None), (259, 1), (262, 2), (273, None), (277, channels), (278, height))
    tags += ((279, len(data)), (284, 1))
    behind = 8 + 2 + 12 * len(tags) + 4
    out = struct.pack(order + "H", len(tags))
    for tag, value in tags:
        if tag == 258:
            out += struct.pack(order + "HHII", tag, 3, channels, behind)
        else:
            out += struct.pack(order + "HHII", tag, 4, 1, behind + 2 * channels if value is None else value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return head + out + bytes(4) + struct.pack(f"{order}{channels}H", *[16] * channels) + data


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_black_to_white_is_what_is_in_use(bits, channels):
    most = 2**bits - 1
    values = np.random.default_rng(bits).integers(0, most + 1, (5, 7, channels))
    values[0, 0], values[0, 1] = 0, most
    files = [png16(values)] + ([tiff16(values, order) for order in "<>"] if channels == 3 else [])
    for content in files:
        got = np.asarray(load_image(content, None))
        assert got.min() == 0 and got.max() == 255
        assert np.abs(got[..., :channels].astype(int) - values * 255 // most).max() <= 1


def test_transparency_of_16_bits_is_composed_on_white():
    values = np.full((2, 2, 4), 4095)
    values[..., :3] = 0
    values[..., 3] = 65535
    values[0, 0, 3] = 0
    values[1, 1, :3] = 4095
    got = load_image(png16(values), None)
    assert [got.getpixel(at) for at in ((0, 0), (1, 0), (1, 1))] == [(255,) * 3, (0,) * 3, (255,) * 3]


def test_turned_and_faint(tmp_path):
    """EXIF applies to what was put together from two readings, too."""
    values = np.zeros((2, 4, 3), dtype=int)
    values[0, 0] = 4095
    content = png16(values)
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    got = load_image(content[:33] + chunk + content[33:], None)
    assert got.size == (2, 4) and got.getpixel((1, 0)) == (255, 255, 255) and got.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("LA", (0, 0), (255, 255, 255)),
        ("La", (90, 255), (90, 90, 90)),
        ("PA", None, None),
        ("RGBa", (10, 20, 30, 255), (10, 20, 30)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16B", 65535, (255, 255, 255)),
        ("I", 4095, (255, 255, 255)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(mode, colour, expected):
    image = Image.new(mode, (2, 2)) if colour is None else Image.new(mode, (2, 2), colour)
    got = to_rgb(image)
    assert got.mode == "RGB" and got.size == (2, 2)
    assert expected is None or got.getpixel((0, 0)) == expected


def test_a_transparent_palette_colour_is_white():
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((0, 0), 0)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    got = load_image(buffer.getvalue(), None)
    assert [got.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (10, 20, 30)]
