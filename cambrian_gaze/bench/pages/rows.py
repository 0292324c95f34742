"""Rows picked and written for people: the fastest dense time, ratios, times, bytes, growth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from cambrian_gaze.measure import Row


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The measured rows whose values are these."""
    return [
        row
        for row in rows
        if row.get("median_us") is not None and all(row.get(name) == value for name, value in wanted.items())
    ]


def line(rows: Iterable[Row], key: str, value: str = "median_us") -> dict[float, float]:
    """key → the smallest value among its rows (the fastest form of dense), by rising key."""
    found: dict[float, float] = {}
    for row in rows:
        if row.get(value) is not None:
            found[row[key]] = min(row[value], found.get(row[key], math.inf))
    return dict(sorted(found.items()))


def exponent(points: dict[float, float]) -> float | None:
    """The power of N by which the last but one value grew to the last; None without two positive ones."""
    (n0, v0), (n1, v1) = list(points.items())[-2:] if len(points) > 1 else ((1, 0), (1, 0))
    return math.log(v1 / v0) / math.log(n1 / n0) if v0 > 0 and v1 > 0 else None


def duration(us: float) -> str:
    """Microseconds with a unit and two or three digits: 27.7 µs, 1.5 ms, 48 s."""
    for size, unit in ((1e6, "s"), (1e3, "ms")):
        if us >= 0.9995 * size:
            return f"{short(us / size)} {unit}"
    return f"{short(us)} µs" if us else "0"


def size(number_of_bytes: float) -> str:
    """Bytes with a binary unit: 3.1 MiB, 1.2 GiB."""
    for step, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number_of_bytes >= 0.9995 * step:
            return f"{short(number_of_bytes / step)} {unit}"
    return f"{short(number_of_bytes)} B"


def short(value: float) -> str:
    """Two digits below ten, whole numbers from ten on: 0.56, 3.5, 48, 1,238."""
    if abs(value) >= 9.95:
        return f"{value:,.0f}"
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.1f}".removesuffix(".0")


def count(value: float) -> str:
    """A number of tokens or rows on an axis: 576, 4.6K, 1M."""
    for size, unit in ((1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{short(value / size)}{unit}"
    return f"{value:g}"


def span(values: Sequence[float], unit: str = "×") -> str:
    """From the least to the greatest: "3.5–14×", or one number where both read alike."""
    low, high = short(min(values)), short(max(values))
    return f"{low}{unit}" if low == high else f"{low}–{high}{unit}"


def share(rows: Iterable[Row]) -> str:
    """How many of the regions rows keep, for the middle of a sentence."""
    kept = {row["kept"] for row in rows}
    return "an eighth" if kept == {0.125} else span([100 * one for one in kept], " %")


def layer(rows: Iterable[Row]) -> str:
    """What a layer of these rows is, as far as they say it and agree."""
    found = {tuple(row.get(name) for name in ("heads", "kv_heads", "head_dim")) for row in rows}
    if found == {(32, 8, 128)}:
        return "one layer of the 4B decoder"
    if len(found) != 1 or None in (sizes := found.pop()):
        return "one layer"
    return "one layer, {} heads on {} KV heads of {}".format(*sizes)


def speed(ratios: Sequence[float]) -> str:
    """How gaze compares by `ratio_to_dense`, losses said as plainly as wins."""
    slower = sum(ratio < 1 for ratio in ratios)
    if not slower:
        return f"{span(ratios)} as fast as dense"
    if slower == len(ratios):
        return f"**slower than dense**, {span(ratios)} of its speed"
    return f"{span(ratios)} of dense's speed, **slower in {slower} of {len(ratios)} cases**"
