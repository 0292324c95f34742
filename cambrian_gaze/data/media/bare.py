"""Files of pictures without what their pixels do not need, for those whose metadata a decoder stumbles over.

Sources: PNG (ISO/IEC 15948), JPEG (ITU-T T.81), WebP (RFC 9649), TIFF 6.0.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_PNG, _JPEG, _TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", {b"II*\0": "<", b"MM\0*": ">"}
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TIFF_KEPT = frozenset(
    (254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320)
    + (322, 323, 324, 325, 330, 332, 338, 339, 347, 512, 513, 514, 529, 530, 531, 532)
)
"""Numbers of the tags that say where the pixels are and how they are stored."""
_ORIENTATION, _SHORT = 274, 3


def bare_pictures(content: bytes) -> Iterator[bytes]:
    """`content` with its EXIF as its only metadata, then without any; nothing for other formats and torn files."""
    for keeps_exif in (True, False):
        try:
            if content.startswith(_PNG):
                yield _bare_png(content, keeps_exif)
            elif content.startswith(_JPEG):
                yield _bare_jpeg(content, keeps_exif)
            elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
                yield _bare_webp(content, keeps_exif)
            elif content[:4] in _TIFF:
                yield _bare_tiff(content, keeps_exif)
        except (struct.error, IndexError):
            return


def _bare_png(content: bytes, keeps_exif: bool) -> bytes:
    parts, place = [_PNG], len(_PNG)
    while place < len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        chunk = content[place : place + 12 + size]
        whole = chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
        if kind in _PNG_KEPT or keeps_exif and kind == b"eXIf" and whole:
            parts.append(chunk)
        place += len(chunk)
        if kind == b"IEND":
            break
    return b"".join(parts)


def _bare_jpeg(content: bytes, keeps_exif: bool) -> bytes:
    """Without application segments and comments, but for JFIF's and Adobe's, which tell the colours."""
    parts, place = [content[:2]], 2
    while content[place] == 0xFF and content[place + 1] != 0xDA:  # the scan follows
        if content[place + 1] == 0xFF:  # fill
            place += 1
            continue
        end = place + 2 + struct.unpack_from(">H", content, place + 2)[0]
        kind, body = content[place + 1], content[place + 4 : end]
        is_exif = kind == 0xE1 and body.startswith(b"Exif\0")
        colours = kind == 0xE0 and body.startswith(b"JFIF\0") or kind == 0xEE and body.startswith(b"Adobe")
        if not (0xE0 <= kind <= 0xEF or kind == 0xFE) or colours or keeps_exif and is_exif:
            parts.append(content[place:end])
        place = end
    return b"".join([*parts, content[place:]])


def _bare_webp(content: bytes, keeps_exif: bool) -> bytes:
    parts, place = [], 12
    while place < len(content):
        kind, size = struct.unpack_from("<4sI", content, place)
        chunk = content[place : place + 8 + size + size % 2]
        if kind not in (b"ICCP", b"XMP ", b"EXIF") or keeps_exif and kind == b"EXIF":
            parts.append(chunk)
        place += len(chunk)
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _bare_tiff(content: bytes, keeps_exif: bool) -> bytes:
    """The directory of the first picture shortened in its place; all that it points at stays where it is."""
    order = _TIFF[content[:4]]
    (start,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, start)
    kept = []
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(order + "HHI", content, place)
        sound = tag != _ORIENTATION or keeps_exif and (kind, values) == (_SHORT, 1)
        if tag in _TIFF_KEPT and sound:
            kept.append(content[place : place + 12])
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)  # no further picture
    return content[:start] + directory + content[start + len(directory) :]
