"""A sound picture with damaged metadata (EXIF, XMP, colour profiles, comments) is that picture: a seeded fuzzer."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cambrian_gaze.data.media.bare import bare_pictures
from cambrian_gaze.data.media.image_files import MediaError, image_size, load_image

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>1</tiff:Orientation></x:xmpmeta>'
TIFF_METADATA = (271, 272, 305, 282, 283, 296, 34665, 34853, 34675, 700, 274)
WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}


def picture(kind: str, orientation: int, seed: int) -> bytes:
    """24x16 pixels with all metadata that Pillow writes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[274], exif[271], exif[305], exif[282] = orientation, "maker", "software", 72.0
    exif.get_ifd(34665)[33434] = 0.01
    exif.get_ifd(34853)[2] = (1.0, 2.0, 3.0)
    extra: dict = {"exif": exif.tobytes(), "icc_profile": bytes(range(200)), "dpi": (72, 72)}
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", "hello" * 5, zip=True)
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        extra["pnginfo"] = info
    if kind in ("JPEG", "WEBP"):
        extra["xmp"] = XMP
    if kind == "WEBP":
        extra["lossless"] = True
    if kind == "MPO":
        extra = {"exif": exif.tobytes(), "save_all": True, "append_images": [Image.fromarray(pixels)]}
    Image.fromarray(pixels).save(buffer, kind, **extra)
    return buffer.getvalue()


def metadata(kind: str, content: bytes) -> list[tuple[int, int]]:
    """Where the metadata begin and end."""
    found, place = [], {"PNG": 8, "WEBP": 12, "TIFF": 0}.get(kind, 2)
    if kind == "TIFF":
        (start,) = struct.unpack_from("<I", content, 4)
        for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", content, start)[0], 12):
            tag, width, count, value = struct.unpack_from("<HHII", content, entry)
            if tag in TIFF_METADATA:
                found.append((entry + 2, entry + 12))
                if (size := WIDTHS.get(width, 1) * count) > 4:
                    found.append((value, value + size))
        return found
    while place + 8 <= len(content):
        if kind == "PNG":
            size, name = struct.unpack_from(">I4s", content, place)
            start, end = place + 8, place + 8 + size
            place, is_metadata = end + 4, name not in (b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS")
        elif kind == "WEBP":
            name, size = struct.unpack_from("<4sI", content, place)
            start, end = place + 8, place + 8 + size
            place, is_metadata = end + size % 2, name in (b"EXIF", b"ICCP", b"XMP ")
        else:
            marker, size = content[place + 1], struct.unpack_from(">H", content, place + 2)[0]
            if marker == 0xDA:
                break
            start, end, is_metadata = place + 4, place + 2 + size, 0xE0 <= marker <= 0xEF or marker == 0xFE
            place = end
        if is_metadata:
            found.append((start, end))
    return found


def damaged(kind: str, content: bytes, rng: random.Random) -> bytes:
    """Some bytes of the metadata changed; of PNG most checksums set right again, so that the damage is read."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 2, 5, 20))):
        start, end = rng.choice(metadata(kind, content))
        data[rng.randrange(start, min(end, start + 200))] = rng.choice((0, 1, 8, 127, 255, rng.randrange(256)))
    place = 8
    while kind == "PNG" and place < len(data):
        (size,) = struct.unpack_from(">I", data, place)
        end = place + 8 + size
        if rng.random() < 0.8 or data[place + 4 : place + 8] in (b"IHDR", b"IDAT", b"IEND"):
            data[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "TIFF", "WEBP"])
def test_damaged_metadata_cost_no_picture(kind):
    rng = random.Random(0)
    for number in range(100):
        whole = picture(kind, rng.choice((1, 3, 6, 8)), number)
        content = damaged(kind, whole, rng)
        got, expected = load_image(content, None), load_image(whole, None)
        assert image_size(content, None) == got.size
        assert sorted(got.getdata()) == sorted(expected.getdata())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_left_out_changes_neither_pixels_nor_orientation(kind, orientation):
    whole = picture(kind, orientation, 0)
    with_exif, without = bare_pictures(whole)
    assert len(without) <= len(with_exif) <= len(whole)
    assert load_image(with_exif, None).tobytes() == load_image(whole, None).tobytes()
    assert sorted(load_image(without, None).getdata()) == sorted(load_image(whole, None).getdata())
    assert load_image(without, None).size == (24, 16)
    assert image_size(whole, None) == load_image(whole, None).size == ((16, 24) if orientation > 4 else (24, 16))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_damaged_pixels_are_an_error_still(kind):
    whole = picture(kind, 1, 0)
    with pytest.raises(MediaError, match="truncated or damaged|not an image"):
        load_image(whole[: len(whole) * 3 // 4], None)
