"""Video files whose every frame carries its number, as ten blocks, bright or dark, that survive compression."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

BITS, BLOCK, HEIGHT = 10, 16, 96


def write_video(
    path: Path, times: Sequence[float], codec: str = "libx264", base: Fraction = Fraction(1, 90_000), **options: str
) -> str:
    """Encodes one frame per time (seconds), with B-frames and a keyframe every 25 frames; the file's name."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = BITS * BLOCK, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        stream.options = options or {"g": "25", "bf": "2"}
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = round(time / base), base
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path.name


def numbered(number: int) -> np.ndarray:
    """A picture that carries a number below 1024, uint8 [96, 160, 3]."""
    bits = [230 if number >> bit & 1 else 25 for bit in range(BITS)]
    return np.broadcast_to(np.repeat(np.uint8(bits), BLOCK)[None, :, None], (HEIGHT, BITS * BLOCK, 3)).copy()


def number_of(frame: Image.Image) -> int:
    """The number that a picture carries; fails where a block is neither bright nor dark."""
    row = np.asarray(frame.convert("L"))[HEIGHT // 2]
    levels = [row[bit * BLOCK + 4 : (bit + 1) * BLOCK - 4].mean() for bit in range(BITS)]
    assert all(level < 60 or level > 190 for level in levels), levels
    return sum(1 << bit for bit, level in enumerate(levels) if level > 128)
