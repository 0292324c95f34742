"""Files whose download did not end, told by their bytes: decoders say something else about them, or nothing."""

from __future__ import annotations

import os
from typing import BinaryIO

LFS_START = b"version https://git-lfs"
LFS = ("a pointer of Git LFS and not the file itself", "fetch it: git lfs pull")
"""First bytes of what stands for a file that Git LFS has not fetched; what is said of it, and the remedy."""
_LONGEST_POINTER = 1024
_ZEROS = bytes(4096)
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


def is_lfs_pointer(path: str, size: int) -> bool:
    """Whether the file, `size` bytes long, only names what Git LFS has not fetched. Raises OSError."""
    if size > _LONGEST_POINTER:
        return False
    with open(path, "rb") as stream:
        return stream.read(len(LFS_START)) == LFS_START


def jpeg_breaks_off(stream: BinaryIO) -> bool:
    """Whether a JPEG ends in zeros before its end of image (ITU-T T.81, B.1.1.3), as a file does whose room was set
    aside before its download. Its decoder takes them for pixels."""
    size = stream.seek(0, os.SEEK_END)
    if size < len(_ZEROS):
        return False
    stream.seek(size - len(_ZEROS))
    if stream.read() != _ZEROS:
        return False
    stream.seek(0)
    content = stream.read()
    return content.rfind(_END_OF_IMAGE) < content.rfind(_START_OF_SCAN)
