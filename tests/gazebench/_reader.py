"""Reads a page from its pixels alone and answers questions about it: shares only the font with the generator."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from cambrian_gaze.gazebench.glyphs import glyph_mask

DIGITS, LETTERS = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ROWS = [*LETTERS, *(f"A{letter}" for letter in LETTERS)]


@lru_cache(maxsize=256)
def template(text: str, side: int) -> np.ndarray:
    """A character's ink less its mean, of length 1: [side²]."""
    mask = np.asarray(glyph_mask(text, side), dtype=float).ravel()
    mask -= mask.mean()
    return mask / np.linalg.norm(mask)


def read_glyph(picture: Image.Image, left: int, top: int, side: int, among: str) -> str:
    """The character in a box, "" where it is empty: the highest correlation over small shifts."""
    pixels = np.asarray(picture.convert("L"), dtype=float)
    templates = np.stack([template(text, side) for text in among])
    best = np.zeros(len(among))
    shifts = range(-(side // 12), side // 12 + 1)
    for y, x in ((top + dy, left + dx) for dy in shifts for dx in shifts):
        if 0 <= y <= pixels.shape[0] - side and 0 <= x <= pixels.shape[1] - side:
            ink = -pixels[y : y + side, x : x + side].ravel()
            ink = ink - ink.mean()
            if (norm := np.linalg.norm(ink)) > 100:
                best = np.maximum(best, templates @ ink / norm)
    return among[best.argmax()] if best.max() > 0.6 else ""


def read_cells(frames: list[Image.Image], glyph: int, shift: int = 0) -> dict[str, tuple[str, str]]:
    """Name → (digit, name that it points to) of a 4x4 grid of cells over the frames, rows going on."""
    cells = {}
    for number, picture in enumerate(frames):
        for row in range(4):
            for column in range(4):
                left, top = column * 2 * glyph + shift, row * 2 * glyph + shift
                digit = read_glyph(picture, left, top, glyph, DIGITS)
                to = read_glyph(picture, left + glyph, top, glyph, LETTERS) if len(frames) > 6 else ""
                to += read_glyph(picture, left, top + glyph, glyph, LETTERS[: 4 * len(frames)])
                to += read_glyph(picture, left + glyph, top + glyph, glyph, "1234")
                cells[f"{ROWS[number * 4 + row]}{column + 1}"] = (digit, to)
    return cells


def answer(row: dict, frames: list[Image.Image], glyph: int, shift: int = 0) -> str:
    """The answer to a tersely worded question."""
    words = row["question"].split()
    if words[0] == "Row":
        top = ROWS.index(words[1]) * 2 * glyph + glyph // 2 + shift
        length = len(row["answer"].split()) - 1
        starts = [glyph // 2 + shift + n * glyph for n in range(length)]
        return " ".join(["Row", *(read_glyph(frames[0], left, top, glyph, DIGITS) for left in starts)])
    cells = read_cells(frames, glyph, shift)
    if words[0] == "Read":
        return " ".join(["Read", *(f"{name} {cells[name][0]}" for name in words[1::2])])
    if words[0] == "Count":
        return " ".join(["Count", *(f"{d} {sum(digit == d for digit, _ in cells.values())}" for d in words[1::2])])
    if words[0] == "Find":
        places = {digit: name for name, (digit, _) in cells.items()}
        return " ".join(["Find", *(f"{d} {places.get(d, '_')}" for d in words[1::2])])
    path = [words[1]]
    while len(path) < row["meta"]["hops"]:
        path.append(cells[path[-1]][1])
    return " ".join(["Hop", *path, cells[path[-1]][0]])
