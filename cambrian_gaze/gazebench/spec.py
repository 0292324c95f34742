"""What GazeBench is made of: the knobs of one data set."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGE_FAMILIES = ("hop", "read", "count", "string", "absent")
VIDEO_FAMILIES = ("video", "stream")
FAMILIES = (*IMAGE_FAMILIES, *VIDEO_FAMILIES)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Names of the rows of cells, from the top; AA follows Z."""
MOST_ROWS = 8
"""Of a page."""
SLOTS = 2
"""Glyphs per side of a cell: the digit at the top left, the name of another cell below."""


@dataclass(frozen=True)
class GazeBenchSpec:
    """One data set; everything is a function of these values."""

    families: tuple[str, ...] = FAMILIES
    grid: tuple[int, int] = (4, 4)
    """Rows and columns of cells. Cell B3 is the third of the second row. Those of a second frame go on where the first
    ends."""
    regions: tuple[int, int] = (4, 4)
    """Rows and columns of equal regions that the answer's places are given in."""
    glyph: int = 48
    """Side of a glyph in pixels; a cell has twice as many."""
    hops: int = 5
    """Cells that a `hop` or `video` question goes through."""
    reads: int = 8
    """Cells that a `read` question asks for."""
    length: int = 6
    """Digits of a string."""
    asked: int = 1
    """Digits that a `count` or `absent` question names."""
    frames: int = 4
    """Of `video` and `stream`; from 1 to 9."""
    questions: int = 3
    """That a `stream` is asked."""
    straddle: bool = False
    """Cells are shifted by half a cell, so that regions of their size cut them; the picture grows by one cell."""
    question: str = "after"
    """`before` or `after` the picture: whether what forgets after it could know what is asked."""
    wording: str = "full"
    """`full`: a question explains itself; `terse`: two or three words, for models that were trained on them."""
    share: Mapping[str, float] = field(default_factory=dict)
    """Family → weight in the training split; families that are left out weigh 1."""
    train: int = 0
    """Records of the training split, all families together."""
    validation: int = 64
    """Questions per family."""
    test: int = 512
    """Questions per family."""
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted((set(self.families) | set(self.share)) - set(FAMILIES))
        if unknown or not self.families:
            raise ValueError(f"families must be some of {', '.join(FAMILIES)}, got {', '.join(unknown) or 'none'}")
        rows, columns = self.grid
        if not (1 <= rows <= MOST_ROWS and 1 <= columns <= 9 and rows * columns >= 2):
            raise ValueError(f"grid must have 1 to {MOST_ROWS} rows and 1 to 9 columns, got {rows}x{columns}")
        for name, most in (
            ("hops", rows * columns),
            ("reads", rows * columns),
            ("length", SLOTS * columns - 1),
            ("asked", min(9, rows * columns - 1)),
        ):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be between 1 and {most} on a grid of {rows}x{columns}")
        if not 1 <= self.frames <= 9:
            raise ValueError(f"frames must be between 1 and 9, got {self.frames}")
        if self.glyph < 6 or min(self.regions) < 1 or self.questions < 1:
            raise ValueError("glyph must be at least 6 pixels, regions and questions at least 1")
        if self.question not in ("before", "after"):
            raise ValueError(f"question must be before or after, got {self.question!r}")
        if self.wording not in ("full", "terse"):
            raise ValueError(f"wording must be full or terse, got {self.wording!r}")

    @property
    def cell(self) -> int:
        """Side of a cell in pixels."""
        return SLOTS * self.glyph

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a picture in pixels."""
        more = int(self.straddle)
        return (self.grid[1] + more) * self.cell, (self.grid[0] + more) * self.cell

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the first frame's cells in raster order."""
        return tuple(f"{row_name(row)}{column + 1}" for row in range(self.grid[0]) for column in range(self.grid[1]))

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GazeBenchSpec:
        """Of `to_dict`, or of a YAML file's values. Raises ValueError for unknown names."""
        unknown = sorted(set(values) - {one.name for one in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"GazeBench has no knob {', '.join(unknown)}")
        tuples = {name: tuple(values[name]) for name in ("families", "grid", "regions") if name in values}
        return cls(**{**values, **tuples})


def row_name(row: int) -> str:
    """What a row is called, counted over all frames."""
    before, letter = divmod(row, len(LETTERS))
    return (LETTERS[before - 1] if before else "") + LETTERS[letter]
