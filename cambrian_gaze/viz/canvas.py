"""Small drawing helpers: text that fits, pictures that stay crisp, the colours of the house."""

from __future__ import annotations

import functools

from PIL import Image, ImageDraw, ImageFont

GAZE = (255, 140, 10)
"""The wash over regions that were looked at; its opacity is the share of heads."""
TOP = (220, 38, 38)
"""The outline of the regions chosen most."""
ASKED = (14, 145, 255)
"""The corners of a region that the question asked for."""
INK, QUIET, PAPER, LINE = (24, 28, 37), (107, 114, 128), (255, 255, 255), (226, 230, 236)
RIGHT, WRONG = (4, 120, 87), (185, 28, 28)


@functools.lru_cache(maxsize=32)
def font(size: int, path: str | None = None) -> ImageFont.FreeTypeFont:
    """Pillow's own truetype font, or the one at `path` (for scripts that the default lacks)."""
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


@functools.lru_cache(maxsize=4096)
def _drawable(face: ImageFont.FreeTypeFont, character: str) -> bool:
    missing = face.getmask("\U0010ffff")
    glyph = face.getmask(character)
    return character == " " or glyph.size != missing.size or bytes(glyph) != bytes(missing)


def token_label(token: str, face: ImageFont.FreeTypeFont | None = None) -> str:
    """A token as a reader can see it: outer spaces dropped, other whitespace by name, letters that the font lacks as
    escapes."""
    named = token.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r").strip(" ")
    if not named:
        return "(space)" if token else "(empty)"
    if face is None:
        return named
    return "".join(c if _drawable(face, c) else c.encode("unicode_escape").decode() for c in named)


def shorten(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, cut with an ellipsis where it would be wider than `width` pixels."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def write(
    draw: ImageDraw.ImageDraw,
    xy: tuple[float, float],
    text: str,
    size: int,
    *,
    fill=INK,
    width=None,
    anchor="la",
    font_path: str | None = None,
) -> None:
    """One line of text, shortened to `width` pixels if given; anchors as in Pillow."""
    face = font(size, font_path)
    text = token_label(text, face) if text else text
    draw.text(xy, shorten(text, face, width) if width else text, font=face, fill=fill, anchor=anchor)


def fit(image: Image.Image, side: int) -> Image.Image:
    """RGB picture with its longer side near `side` pixels: enlarged by a whole factor with hard pixels (never above
    `side`), or reduced smoothly."""
    if side < 1:
        raise ValueError(f"side must be at least 1 pixel, not {side}")
    image = image.convert("RGB")
    longest = max(image.size)
    if longest <= side:
        factor = side // longest
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    width, height = (max(1, round(edge * side / longest)) for edge in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
