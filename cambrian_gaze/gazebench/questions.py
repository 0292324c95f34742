"""Questions about scenes. Each word of an answer says which regions it is read from.

`hop` and `video`: the next place to look at is itself part of the picture, so it cannot be known from the question.
`read`: named cells. `count`: the whole page, asked in two words. `string`: digits that regions cut. `stream`: several
questions after the frames have gone. `absent`: a digit that may not be there. A value stands behind its name.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cambrian_gaze.gazebench.scenes import (
    Cell,
    Scene,
    cell_box,
    draw_scene,
    name_boxes,
    name_of,
    regions_of,
    scene_of,
    slot_box,
    string_scene,
)
from cambrian_gaze.gazebench.spec import GazeBenchSpec, row_name


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
BLANK = "_"
"""Where a value belongs, in a terse question; left as it is in the answer where there is nothing."""


def ask(family: str, spec: GazeBenchSpec, rng: random.Random) -> tuple[Scene, list[Asked]]:
    """A scene and what is asked about it: one question, or several of a `stream`."""
    return _FAMILIES[family](spec, rng)


def _hop(spec: GazeBenchSpec, rng: random.Random, frames: int = 1) -> tuple[Scene, list[Asked]]:
    scene = draw_scene(spec, frames, rng)
    cell = start = rng.choice(sorted(scene.digits))
    first = name_of(spec, start)
    words, values, needles = [Word("Hop"), Word(first)], [], []
    for place in range(spec.hops):
        needles.append(cell)
        if place + 1 < spec.hops:
            shown, cell = cell, scene.pointers[cell]
            name = name_of(spec, cell)
            words.append(Word(name, regions_of(spec, shown[0], *name_boxes(spec, shown[1], name))))
        else:
            words.append(Word(scene.digits[cell], regions_of(spec, cell[0], slot_box(spec, cell[1], 0))))
        values.append(("", words[-1].text))
    full = (
        f"Start at cell {first}. Go to the cell that it names, from there to the cell that that one names, and so on, "
        f"until you have been in {spec.hops} cells. Write their names in order, then the digit of the last. Answer in "
        f"this form: Hop {first} …"
    )
    choices = (*DIGITS, *(name_of(spec, one) for one in sorted(scene.digits)))
    return scene, [Asked(f"Hop {first}", full, tuple(words), tuple(values), tuple(needles), choices, spec.hops, first)]


def _video(spec: GazeBenchSpec, rng: random.Random) -> tuple[Scene, list[Asked]]:
    return _hop(spec, rng, spec.frames)


def _read(spec: GazeBenchSpec, rng: random.Random) -> tuple[Scene, list[Asked]]:
    scene = draw_scene(spec, 1, rng)
    return scene, [_reading(spec, scene, rng.sample(sorted(scene.digits), spec.reads))]


def _reading(spec: GazeBenchSpec, scene: Scene, cells: list[Cell]) -> Asked:
    names = [name_of(spec, cell) for cell in cells]
    words = [Word("Read")]
    for name, cell in zip(names, cells, strict=True):
        words += [Word(name), Word(scene.digits[cell], regions_of(spec, cell[0], slot_box(spec, cell[1], 0)))]
    values = tuple((name, scene.digits[cell]) for name, cell in zip(names, cells, strict=True))
    full = (
        f"Write the digit of each of these cells behind its name: {', '.join(names)}. Answer in this form: "
        f"Read {names[0]} 0 …"
    )
    return Asked("Read " + _blanks(names), full, tuple(words), values, tuple(cells), DIGITS)


def _stream(spec: GazeBenchSpec, rng: random.Random) -> tuple[Scene, list[Asked]]:
    scene = draw_scene(spec, spec.frames, rng)
    count = min(spec.questions, len(scene.digits))
    return scene, [_reading(spec, scene, [cell]) for cell in rng.sample(sorted(scene.digits), count)]


def _count(spec: GazeBenchSpec, rng: random.Random) -> tuple[Scene, list[Asked]]:
    asked, cells = rng.sample(DIGITS, spec.asked), [(0, place) for place in range(len(spec.names))]
    # As many as is drawn, from none to half of the page: otherwise "1" or "2" is nearly always right.
    most, free, numbers = len(cells) // 2, rng.sample(cells, len(cells)), []
    others = [one for one in DIGITS if one not in asked]
    digits = {}
    for digit in asked:
        numbers.append(rng.randint(0, min(most, len(free))))
        digits |= {free.pop(): digit for _ in range(numbers[-1])}
    digits |= {cell: rng.choice(others) for cell in free}
    scene = scene_of(spec, 1, digits, {})
    everywhere = regions_of(spec, 0, *(slot_box(spec, place, 0) for _, place in cells))
    words = [Word("Count")]
    for digit, number in zip(asked, numbers, strict=True):
        words += [Word(digit), Word(str(number), everywhere)]
    values = tuple((digit, str(number)) for digit, number in zip(asked, numbers, strict=True))
    full = (
        f"In how many cells is the digit {asked[0]}? Answer in this form: Count {asked[0]} 0"
        if len(asked) == 1
        else f"In how many cells is each of the digits {', '.join(asked)}? Write how many behind each digit, in this "
        f"form: Count {asked[0]} 0 …"
    )
    choices = tuple(str(n) for n in range(most + 1))
    return scene, [Asked("Count " + _blanks(asked), full, tuple(words), values, tuple(cells), choices)]


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
    asked, cells = rng.sample(DIGITS, spec.asked), [(0, place) for place in range(len(spec.names))]
    free = rng.sample(cells, len(cells))
    there = {digit: free.pop() if rng.random() < 0.5 else None for digit in asked}
    others = [one for one in DIGITS if one not in asked]
    digits = {cell: rng.choice(others) for cell in free}
    digits |= {cell: digit for digit, cell in there.items() if cell is not None}
    scene = scene_of(spec, 1, digits, {})
    nothing = BLANK if spec.wording == "terse" else "none"
    words, values, seen = [Word("Find")], [], []
    for digit, cell in there.items():
        found = cells if cell is None else [cell]
        values.append((digit, nothing if cell is None else name_of(spec, cell)))
        regions = regions_of(spec, 0, *(cell_box(spec, place) for _, place in found))
        words += [Word(digit), Word(values[-1][1], regions)]
        seen += found
    full = (
        f"Which cell has the digit {asked[0]}? Answer with its name, or with none where there is no such cell, in this "
        f"form: Find {asked[0]} {spec.names[0]}"
        if len(asked) == 1
        else f"Which cell has each of the digits {', '.join(asked)}? Write its name behind each digit, or none where "
        f"there is no such cell, in this form: Find {asked[0]} {spec.names[0]} …"
    )
    needles = tuple(dict.fromkeys(seen))
    choices = (nothing, *spec.names)
    return scene, [Asked("Find " + _blanks(asked), full, tuple(words), tuple(values), needles, choices)]


def _blanks(names: Iterable[str]) -> str:
    return " ".join(f"{name} {BLANK}" for name in names)


_FAMILIES: dict[str, Callable[[GazeBenchSpec, random.Random], tuple[Scene, list[Asked]]]] = {
    "hop": _hop,
    "read": _read,
    "count": _count,
    "string": _string,
    "absent": _absent,
    "video": _video,
    "stream": _stream,
}
