"""Pieces of charts: scales from values to pixels, round ticks, short numbers, and SVG text, lines and drawings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cambrian_gaze.viz.html import Html, element


@dataclass(frozen=True)
class Scale:
    """From values in [low, high] to pixels from `start` to `end`; a logarithmic one wants positive bounds."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of a value, NaN of one that has none; values beyond the ends are drawn at the ends."""
        if not math.isfinite(value) or (self.log and value <= 0):
            return math.nan
        low, high, here = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (min(max(here, low), high) - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the scale, about `count` of them."""
        if not self.log:
            return ticks(self.low, self.high, count)
        return [10**tick for tick in _log_ticks(math.log10(self.low), math.log10(self.high))]

    @classmethod
    def around(
        cls,
        values: Sequence[float],
        start: float,
        end: float,
        *,
        log: bool = False,
        margin: float = 0.0,
        low: float | None = None,
        high: float | None = None,
    ) -> Scale:
        """A scale that holds all values, and a share of their span at each end; `low` and `high` are ends that the
        values do not decide."""
        first, last = (math.log10(x) if log else x for x in (min(values), max(values)))
        room = margin * (last - first or abs(last) or 1.0)
        first, last = first - room, last + room
        if low is not None:
            first = math.log10(low) if log else low
        if high is not None:
            last = math.log10(high) if log else high
        if not last > first:
            last = first + 1
        return cls(*(10 ** min(max(x, -300), 300) if log else x for x in (first, last)), start, end, log)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) inside [low, high], about `count` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Logarithms of 1, 2 and 5 times powers of ten inside [low, high] (logarithms too); of powers alone if many."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1, 2, 5), (1,)):
        found = [power + math.log10(factor) for power in powers for factor in factors]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) <= 8:
            return found or ticks(low, high)
    return found[:: math.ceil(len(found) / 8)]


def number(value: float) -> str:
    """A short number: 12k, 0.25, 3."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.4g}"


def svg(width: int, height: int, label: str, *children) -> Html:
    """A drawing that shrinks with the page, though not below what can be read: then its figure scrolls."""
    floor = f"min-width:{min(width, max(320, round(0.7 * width)))}px"
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
        style=floor,
    )


def text(x: float, y: float, text: str, *, anchor: str = "start", class_: str | None = None, **more) -> Html:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=class_, **more)


def line(x1: float, y1: float, x2: float, y2: float, **more) -> Html:
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", **more)
