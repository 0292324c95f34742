"""Letters and digits as small grey pictures, and pages made of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""


class Glyph(NamedTuple):
    """One character and where it stands."""

    text: str
    box: Box


@lru_cache(maxsize=1024)
def glyph_mask(text: str, side: int) -> Image.Image:
    """Ink of a character, mode L, side x side, as large as its box lets it be."""
    font = ImageFont.load_default(max(8, side * 2))
    left, top, right, bottom = font.getbbox(text)
    drawn = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(drawn).text((1 - left, 1 - top), text, fill=255, font=font)
    inner = max(4, side - max(1, side // 8))
    scale = min(inner / drawn.height, inner / drawn.width)
    drawn = drawn.resize(
        (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))), Image.Resampling.BOX
    )
    mask = Image.new("L", (side, side))
    mask.paste(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    return mask


def draw_page(size: tuple[int, int], glyphs: Sequence[Glyph], rng: random.Random) -> Image.Image:
    """Glyphs on a page, mode L: dark on light, each of its own darkness, a pixel or so off its place.

    All glyphs are drawn alike, whether the question needs them or not.
    """
    page = Image.new("L", size, rng.randrange(225, 256))
    for text, (left, top, right, _) in glyphs:
        side = right - left
        most = side // 12
        shifted = left + rng.randint(-most, most), top + rng.randint(-most, most)
        place = tuple(min(max(at, 0), whole - side) for at, whole in zip(shifted, size, strict=True))
        page.paste(rng.randrange(0, 80), place, glyph_mask(text, side))
    return page
