"""Pictures one after the other as an MP4, through PyAV."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from PIL import Image

from cambrian_gaze.extras import require
from cambrian_gaze.files import replacing

CODECS = ("libx264", "mpeg4")
"""The first that this build of PyAV has: H.264 plays in every browser."""
PER_SECOND, REPEATS = 10, 7
"""Frames a second, and frames of each picture: 700 ms. Players stumble over a film of a frame or two a second."""


def write_film(path: str | os.PathLike, pictures: Sequence[Image.Image]) -> Path:
    """Writes pictures of one size atomically and returns the path. An odd width or height gets another row or column of
    its last pixels, since H.264 has none. Raises ImportError without the extra `pyav`."""
    av = require("av", "pyav")
    codec = next(name for name in CODECS if name in av.codecs_available)
    width, height = pictures[0].size
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as file:
        stream = file.add_stream(codec, rate=PER_SECOND, options={"crf": "18"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        if codec == "mpeg4":
            stream.bit_rate = 8_000_000
        moment = 0
        for picture in pictures:
            even = picture.convert("RGB").resize((stream.width, stream.height), Image.Resampling.NEAREST)
            even.paste(picture)
            for _ in range(REPEATS):
                frame = av.VideoFrame.from_image(even)
                frame.pts, frame.time_base = moment, Fraction(1, PER_SECOND)
                moment += 1
                file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return Path(path)
