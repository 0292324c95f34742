"""Pages of cells: what each shows, where it stands, and in which regions."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from cambrian_gaze.gazebench.glyphs import Box, Glyph, draw_page
from cambrian_gaze.gazebench.spec import LETTERS, GazeBenchSpec, row_name

Cell = tuple[int, int]
"""Frame, place in raster order."""
NAME_SLOTS = 3
"""Glyphs of a cell that are left for a name: a letter or two, a digit."""


@dataclass(frozen=True)
class Scene:
    """Frames of cells; a picture is one frame."""

    digits: dict[Cell, str]
    """What is shown at the top left of each cell; empty where strings are shown instead."""
    pointers: dict[Cell, Cell]
    """The cell that each cell names, if any; following them leads once through all cells."""
    strings: dict[int, str]
    """Row → the string that crosses it."""
    frames: tuple[tuple[Glyph, ...], ...]
    """Everything that is drawn, by frame."""


def draw_scene(spec: GazeBenchSpec, frames: int, rng: random.Random) -> Scene:
    """Cells with a digit and a name each."""
    cells = [(frame, place) for frame in range(frames) for place in range(len(spec.names))]
    order = rng.sample(cells, len(cells))
    digits = {cell: str(rng.randrange(10)) for cell in cells}
    return scene_of(spec, frames, digits, dict(zip(order, order[1:] + order[:1], strict=True)))


def scene_of(spec: GazeBenchSpec, frames: int, digits: dict[Cell, str], pointers: dict[Cell, Cell]) -> Scene:
    """The scene of given digits and pointers; without pointers a cell shows its digit alone."""
    drawn: list[tuple[Glyph, ...]] = []
    for frame in range(frames):
        glyphs = []
        for place in range(len(spec.names)):
            texts = [digits[frame, place]]
            if (frame, place) in pointers:
                texts += ["", *name_of(spec, pointers[frame, place])][-NAME_SLOTS:]
            glyphs += [Glyph(text, slot_box(spec, place, slot)) for slot, text in enumerate(texts) if text]
        drawn.append(tuple(glyphs))
    return Scene(digits, pointers, {}, tuple(drawn))


def string_scene(spec: GazeBenchSpec, rng: random.Random) -> Scene:
    """A string in each row, from half a glyph off the border on, so that regions cut it."""
    strings, glyphs = {}, []
    for row in range(spec.grid[0]):
        strings[row] = "".join(str(rng.randrange(10)) for _ in range(spec.length))
        left, top, _, _ = cell_box(spec, row * spec.grid[1])
        left, top = left + spec.glyph // 2, top + spec.glyph // 2
        for place, digit in enumerate(strings[row]):
            x = left + place * spec.glyph
            glyphs.append(Glyph(digit, (x, top, x + spec.glyph, top + spec.glyph)))
    return Scene({}, {}, strings, (tuple(glyphs),))


def pictures(spec: GazeBenchSpec, scene: Scene, rng: random.Random) -> list[Image.Image]:
    """The frames as pictures."""
    return [draw_page(spec.size, glyphs, rng) for glyphs in scene.frames]


def cell_box(spec: GazeBenchSpec, place: int) -> Box:
    """Pixels of a cell."""
    row, column = divmod(place, spec.grid[1])
    shift = spec.cell // 2 if spec.straddle else 0
    left, top = column * spec.cell + shift, row * spec.cell + shift
    return left, top, left + spec.cell, top + spec.cell


def slot_box(spec: GazeBenchSpec, place: int, slot: int) -> Box:
    """Pixels of one of the four glyphs of a cell: the digit, and the name in the last ones."""
    left, top, _, _ = cell_box(spec, place)
    left, top = left + slot % 2 * spec.glyph, top + slot // 2 * spec.glyph
    return left, top, left + spec.glyph, top + spec.glyph


def regions_of(spec: GazeBenchSpec, frame: int, *boxes: Box) -> tuple[int, ...]:
    """Regions that the boxes touch, rising; region r of frame f is f·(regions of a frame) + r."""
    (rows, columns), (width, height) = spec.regions, spec.size
    found = set()
    for left, top, right, bottom in boxes:
        for row in range(top * rows // height, (bottom * rows - 1) // height + 1):
            for column in range(left * columns // width, (right * columns - 1) // width + 1):
                found.add((frame * rows + row) * columns + column)
    return tuple(sorted(found))


def name_boxes(spec: GazeBenchSpec, place: int, name: str) -> list[Box]:
    """Pixels of the name that a cell shows."""
    return [slot_box(spec, place, 1 + NAME_SLOTS - n) for n in range(len(name), 0, -1)]


def name_of(spec: GazeBenchSpec, cell: Cell) -> str:
    """What a cell is called: B3, or F3 where that row is the second of the second frame's."""
    frame, place = cell
    row, column = divmod(place, spec.grid[1])
    return f"{row_name(frame * spec.grid[0] + row)}{column + 1}"


def cell_of(spec: GazeBenchSpec, name: str) -> Cell:
    """The cell of that name."""
    row = 0
    for letter in name[:-1]:
        row = row * len(LETTERS) + LETTERS.index(letter) + 1
    frame, row = divmod(row - 1, spec.grid[0])
    return frame, row * spec.grid[1] + int(name[-1]) - 1
