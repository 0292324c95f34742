"""Questions about scenes. Each word of an answer says which regions it is read from.

`hop` and `video`: the next place to look at is itself part of the picture, so it cannot be known from the question.
`read`: named cells. `count`: the whole page, asked in two words. `string`: digits that regions cut. `stream`: several
questions after the frames have gone. `absent`: a digit that may not be there.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from cambrian_gaze.gazebench.scenes import (
    Cell,
    Scene,
    cell_box,
    draw_scene,
    name_of,
    regions_of,
    row_name,
    scene_of,
    slot_box,
    string_scene,
)
from cambrian_gaze.gazebench.spec import GazeBenchSpec


class Word(NamedTuple):
    """One word of an answer."""

    text: str
    regions: tuple[int, ...] = ()
    """What it is read from; empty where the question and the words before tell it."""


class Asked(NamedTuple):
    """A question with its answer."""

    terse: str
    full: str
    words: tuple[Word, ...]
    values: tuple[tuple[str, str], ...]
    """(name, value) as they are scored; the name is empty where the answer is the value alone."""
    needles: tuple[Cell, ...]
    """Cells that the answer is read from."""
    choices: tuple[str, ...]
    """What a value may be."""
    hops: int = 0
    given: str = ""
    """What the answer begins with although the question says it: no value."""


DIGITS = tuple("0123456789")


def ask(family: str, spec: GazeBenchSpec, rng: random.Random) -> tuple[Scene, list[Asked]]:
    """A scene and what is asked about it: one question, or several of a `stream`."""
    return _FAMILIES[family](spec, rng)


def _hop(spec: GazeBenchSpec, rng: random.Random, frames: int = 1) -> tuple[Scene, list[Asked]]:
    scene = draw_scene(spec, frames, rng)
    cell = start = rng.choice(sorted(scene.digits))
    words, values, needles = [Word("Hop"), Word(name_of(spec, start, frames))], [], []
    slots = (2, 3) if frames == 1 else (1, 2, 3)
    for place in range(spec.hops):
        needles.append(cell)
        if place + 1 < spec.hops:
            read = regions_of(spec, cell[0], *(slot_box(spec, cell[1], slot) for slot in slots))
            cell = scene.pointers[cell]
            words.append(Word(name_of(spec, cell, frames), read))
        else:
            words.append(Word(scene.digits[cell], regions_of(spec, cell[0], slot_box(spec, cell[1], 0))))
        values.append(("", words[-1].text))
    first = name_of(spec, start, frames)
    full = (
        f"Start at cell {first}. Go to the cell that it names, from there to the cell that that one names, and so on, "
        f"until you have been in {spec.hops} cells. Write their names in order, then the digit of the last. Answer in "
        f"this form: Hop {first} …"
    )
    choices = (*DIGITS, *spec.names)
    return scene, [Asked(f"Hop {first}", full, tuple(words), tuple(values), tuple(needles), choices, spec.hops, first)]


def _video(spec: GazeBenchSpec, rng: random.Random) -> tuple[Scene, list[Asked]]:
    return _hop(spec, rng, spec.frames)


def _read(spec: GazeBenchSpec, rng: random.Random) -> tuple[Scene, list[Asked]]:
    scene = draw_scene(spec, 1, rng)
    return scene, [_reading(spec, scene, rng.sample(sorted(scene.digits), spec.reads), 1)]


def _reading(spec: GazeBenchSpec, scene: Scene, cells: list[Cell], frames: int) -> Asked:
    names = [name_of(spec, cell, frames) for cell in cells]
    words = [Word("Read")]
    for name, cell in zip(names, cells, strict=True):
        words += [Word(name), Word(scene.digits[cell], regions_of(spec, cell[0], slot_box(spec, cell[1], 0)))]
    values = tuple((name, scene.digits[cell]) for name, cell in zip(names, cells, strict=True))
    full = (
        f"Write the digit of each of these cells behind its name: {', '.join(names)}. Answer in this form: "
        f"Read {names[0]} 0 …"
    )
    return Asked("Read " + " ".join(f"{n} _" for n in names), full, tuple(words), values, tuple(cells), DIGITS)


def _stream(spec: GazeBenchSpec, rng: random.Random) -> tuple[Scene, list[Asked]]:
    scene = draw_scene(spec, spec.frames, rng)
    count = min(spec.questions, len(scene.digits))
    return scene, [_reading(spec, scene, [cell], spec.frames) for cell in rng.sample(sorted(scene.digits), count)]


def _count(spec: GazeBenchSpec, rng: random.Random) -> tuple[Scene, list[Asked]]:
    scene = draw_scene(spec, 1, rng)
    digit, cells = rng.choice(DIGITS), sorted(scene.digits)
    # As many as is drawn, from none to half of the page: otherwise "1" or "2" is nearly always right.
    most = len(cells) // 2
    chosen = set(rng.sample(cells, rng.randint(0, most)))
    others = [one for one in DIGITS if one != digit]
    digits = {cell: digit if cell in chosen else rng.choice(others) for cell in cells}
    scene = scene_of(spec, 1, digits, scene.pointers)
    everywhere = regions_of(spec, 0, *(slot_box(spec, place, 0) for _, place in cells))
    words = (Word("Count"), Word(str(len(chosen)), everywhere))
    full = f"In how many cells is the digit {digit}? Answer in this form: Count 0"
    choices = tuple(str(n) for n in range(most + 1))
    return scene, [Asked(f"Count {digit}", full, words, (("", str(len(chosen))),), tuple(cells), choices)]


def _string(spec: GazeBenchSpec, rng: random.Random) -> tuple[Scene, list[Asked]]:
    scene = string_scene(spec, rng)
    row = rng.randrange(spec.grid[0])
    first = row * spec.grid[1] * 1
    boxes = [glyph.box for glyph in scene.frames[0][row * spec.length : (row + 1) * spec.length]]
    digits = [Word(d, regions_of(spec, 0, b)) for d, b in zip(scene.strings[row], boxes, strict=True)]
    full = f"Write the digits of row {row_name(row)}, one by one. Answer in this form: Row 0 0 0 …"
    values = tuple(("", digit) for digit in scene.strings[row])
    needles = tuple((0, first + column) for column in range(spec.grid[1]))
    return scene, [Asked(f"Row {row_name(row)}", full, (Word("Row"), *digits), values, needles, DIGITS)]


def _absent(spec: GazeBenchSpec, rng: random.Random) -> tuple[Scene, list[Asked]]:
    scene = draw_scene(spec, 1, rng)
    digit, cells = rng.choice(DIGITS), sorted(scene.digits)
    there = rng.choice(cells) if rng.random() < 0.5 else None
    others = [one for one in DIGITS if one != digit]
    digits = {cell: digit if cell == there else rng.choice(others) for cell in cells}
    scene = scene_of(spec, 1, digits, scene.pointers)
    answer = "none" if there is None else name_of(spec, there, 1)
    seen = cells if there is None else [there]
    regions = regions_of(spec, 0, *(cell_box(spec, place) for _, place in seen))
    full = (
        f"Which cell has the digit {digit}? Answer with its name, or with none where there is no such cell, in this "
        f"form: Find {spec.names[0]}"
    )
    return scene, [
        Asked(f"Find {digit}", full, (Word("Find"), Word(answer, regions)), (("", answer),),
              tuple(seen), ("none", *spec.names))
    ]  # fmt: skip


_FAMILIES: dict[str, Callable[[GazeBenchSpec, random.Random], tuple[Scene, list[Asked]]]] = {
    "hop": _hop,
    "read": _read,
    "count": _count,
    "string": _string,
    "absent": _absent,
    "video": _video,
    "stream": _stream,
}
