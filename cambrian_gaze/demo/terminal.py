"""A picture in a terminal: two pixels to a character, in colour, with regions drawn on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from cambrian_gaze.viz.trace_data import TraceData

Colours = Literal["true", "256", "none"]
RESET = "\x1b[0m"
LIT, MARK = 0.28, np.array([255, 176, 0], dtype=np.float64)
"""Brightness of what no head looked at, and the colour of the regions looked at most."""
SHADES = " .:-=+*#%@"
"""Without colours, from dark to bright."""


def colours_of(environment: Mapping[str, str], is_terminal: bool) -> Colours:
    """What a terminal can show, by the usual variables: NO_COLOR, COLORTERM, TERM."""
    if environment.get("NO_COLOR") or not is_terminal or environment.get("TERM", "") in ("", "dumb"):
        return "none"
    return "true" if environment.get("COLORTERM", "").lower() in ("truecolor", "24bit") else "256"


@dataclass(frozen=True)
class Canvas:
    """How large a picture is drawn, in characters, and in what colours."""

    columns: int
    rows: int
    colours: Colours

    @classmethod
    def of_terminal(cls, environment: Mapping[str, str] | None = None, is_terminal: bool = True) -> Canvas:
        """At most 64 characters wide and 24 high, less in a small terminal."""
        columns, lines = shutil.get_terminal_size((80, 24))
        own = os.environ if environment is None else environment
        return cls(max(8, min(64, columns - 2)), max(4, min(24, lines - 6)), colours_of(own, is_terminal))

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Pixels (an even number of rows) that a picture of this shape takes."""
        scale = min(self.columns / width, 2 * self.rows / height)
        wide, high = max(1, round(width * scale)), max(2, round(height * scale))
        return wide, high + high % 2

    def lines(
        self, picture: Image.Image, places: Sequence[Sequence[int]] = (), share: Sequence[float] = ()
    ) -> list[str]:
        """A picture as lines of text.

        Args:
            places: regions as pixels (x0, y0, x1, y1) of the picture.
            share: the weight of each, 0 to 1. Brightness follows it; the heaviest have a frame. Without weights the
                picture is shown as it is.
        """
        wide, high = self.size(*picture.size)
        pixels = np.asarray(picture.convert("RGB").resize((wide, high), Image.Resampling.BOX), dtype=np.float64)
        most = max(share, default=0.0)
        if most > 0:
            pixels = self._lit(pixels, picture.size, places, share, most)
        told = pixels.round().clip(0, 255).astype(int)
        return [self._line(told[row], told[row + 1]) for row in range(0, high, 2)]

    def _lit(self, pixels, size, places, share, most):
        high, wide = pixels.shape[:2]
        light = np.full((high, wide, 1), LIT)
        framed = np.zeros((high, wide), dtype=bool)
        for (x0, y0, x1, y1), weight in zip(places, share, strict=True):
            if x1 <= x0 or y1 <= y0:
                continue
            left, right = round(x0 * wide / size[0]), round(x1 * wide / size[0])
            top, bottom = round(y0 * high / size[1]), round(y1 * high / size[1])
            right, bottom = max(right, left + 1), max(bottom, top + 1)
            light[top:bottom, left:right] = np.maximum(light[top:bottom, left:right], LIT + (1 - LIT) * weight / most)
            if weight > 0.999 * most:
                inside = np.zeros_like(framed)
                inside[top:bottom, left:right] = True
                inside[top + 1 : bottom - 1, left + 1 : right - 1] = False
                framed |= inside
        pixels = pixels * light
        pixels[framed] = MARK
        return pixels

    def _line(self, upper: np.ndarray, lower: np.ndarray) -> str:
        if self.colours == "none":
            grey = (upper + lower) @ np.array([299, 587, 114]) / 2000
            return "".join(SHADES[min(len(SHADES) - 1, int(value * len(SHADES) / 256))] for value in grey).rstrip()
        parts, before = [], ""
        for above, below in zip(upper, lower, strict=True):
            code = self._code(above, below)
            parts.append(("" if code == before else code) + "▀")
            before = code
        return "".join(parts) + RESET

    def _code(self, above: np.ndarray, below: np.ndarray) -> str:
        if self.colours == "true":
            return "\x1b[38;2;{};{};{};48;2;{};{};{}m".format(*above, *below)
        return f"\x1b[38;5;{_cube(above)};48;5;{_cube(below)}m"


def gaze_lines(canvas: Canvas, trace: TraceData, token: int) -> tuple[list[str], str]:
    """The picture or frame that a token looked at most, with its regions, and a name for it. Without a choice, the
    first picture as it is; no lines without a picture."""
    if not trace.units:
        return [], ""
    share = trace.share(token) if len(trace.tokens) else np.zeros(len(trace.boxes))
    unit = max(trace.units, key=lambda unit: share[trace.regions_of(*unit)].sum())
    here = trace.regions_of(*unit)
    item = trace.items[unit[0]]
    name = f"{item.kind} {unit[0] + 1}" + (f", frame {unit[1] + 1} of {item.grid[0]}" if item.grid[0] > 1 else "")
    return canvas.lines(item.picture(unit[1]), [trace.pixels[r] for r in here], share[here].tolist()), name


def _cube(colour: np.ndarray) -> int:
    """The nearest of xterm's 256 colours: its grey ramp, or its cube of 6x6x6."""
    red, green, blue = (int(part) for part in colour)
    if max(red, green, blue) - min(red, green, blue) < 12:
        grey = (red + green + blue) // 3
        return 16 if grey < 4 else 231 if grey > 246 else 232 + min(23, max(0, round((grey - 8) / 10)))
    levels = (0, 95, 135, 175, 215, 255)
    r, g, b = (min(range(6), key=lambda n: abs(levels[n] - part)) for part in (red, green, blue))
    return 16 + 36 * r + 6 * g + b
