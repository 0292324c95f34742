"""Which panels a figure of a trace has: tokens, layers, heads, frames in rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cambrian_gaze.viz.trace_data import TraceData

KINDS = ("token", "layer", "head", "layer_head", "frame")


@dataclass(frozen=True)
class Panel:
    """One picture with its regions."""

    unit: tuple[int, int]
    """(item, frame)."""

    share: np.ndarray
    """float64 [R]."""

    label: str = ""
    """Below it."""

    heat: np.ndarray | None = None
    """float64 [N]: attention weight on each visual token, over the largest of the whole figure; None: shares of heads
    are drawn."""


@dataclass(frozen=True)
class Figure:
    """Panels in rows, with names above the columns and before the rows."""

    rows: list[list[Panel]]
    columns: Sequence[str] = ()
    names: Sequence[str] = ()

    @property
    def width(self) -> int:
        """Panels in the longest row."""
        return max(map(len, self.rows))

    @property
    def bare(self) -> bool:
        """Whether it is one picture without a word, which then fills the paper."""
        return len(self.rows) == self.width == 1 and not (self.names or self.columns or self.rows[0][0].label)


def figure(
    trace: TraceData,
    by: str = "token",
    *,
    tokens: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    frames: Sequence[int] | None = None,
    columns: int = 6,
    heat: bool = False,
) -> Figure:
    """The panels of a trace.

    Args:
        by: "token": a panel for each token, `columns` to a row, on the picture or frame that it looked at most (one
            alone has no text);
            "layer" and "head": a row for each token, a column for each layer, or for each head over the chosen layers;
            "layer_head": one token, layers by heads; "frame": a row for each token, a column for each picture or frame.
        tokens: places in the answer; default: those that a reader sees, for "layer_head" the first of them.
        layers, heads: count these alone; default: all.
        frames: numbers of pictures and frames, over all items, for "frame"; default: all.
        heat: draw attention weights, mean over heads, instead of the shares of heads that chose. All panels have one
            scale.

    Raises: ValueError for what there is not.
    """
    if heat:
        _check_heat(trace, by, layers, heads)
    if by not in KINDS:
        raise ValueError(f"by {by!r} is none of {', '.join(KINDS)}")
    if not trace.units:
        raise ValueError("the trace has no picture")
    visible = [t for t, hidden in enumerate(trace.special) if not hidden and trace.tokens[t].strip()]
    chosen = list(visible if tokens is None else tokens)
    if by == "layer_head" and tokens is None:
        chosen = chosen[:1]
    if not chosen:
        raise ValueError("there is no token to show; name one of the answer's")
    for name, given, end in (("frame", frames, len(trace.units)), ("token", chosen, len(trace.tokens))):
        if wrong := [n for n in given or () if not 0 <= n < end]:
            raise ValueError(f"{name} {wrong[0]}: the trace has {name}s 0 to {end - 1}")
    depth, width = trace.regions.shape[1:3]
    each_layer = list(range(depth) if layers is None else layers)
    each_head = list(range(width) if heads is None else heads)
    units = trace.units if frames is None else [trace.units[n] for n in frames]
    words = [trace.tokens[t].strip() or f"token {t}" for t in chosen]
    apart = [[n] for n in each_layer] if by == "layer" else [layers]
    hottest = max([1e-30, *(trace.heat(t, some).max() for t in chosen for some in apart)]) if heat else 1.0

    def panel(token: int, some_layers=layers, some_heads=heads, unit=None, label: str = "") -> Panel:
        share = trace.share(token, some_layers, some_heads)
        if not heat:
            return Panel(unit or _heaviest(trace, share, units), share, label)
        weights = trace.heat(token, None if some_layers is None else list(some_layers)) / hottest
        return Panel(unit or _hottest(trace, weights, units), share, label, weights)

    if by == "token":
        made = [panel(t, label=word if len(chosen) > 1 else "") for t, word in zip(chosen, words, strict=True)]
        if len(trace.units) > 1 and len(chosen) > 1:
            made = [replace(p, label=f"{p.label} ({unit_name(trace, p.unit)})") for p in made]
        return Figure([made[start : start + columns] for start in range(0, len(made), columns)])
    if by == "layer":
        return Figure([[panel(t, [n]) for n in each_layer] for t in chosen], [f"layer {n}" for n in each_layer], words)
    if by == "head":
        names = [f"head {n}" for n in each_head]
        return Figure([[panel(t, layers, [n]) for n in each_head] for t in chosen], names, words)
    if by == "frame":
        names = [unit_name(trace, unit) for unit in units]
        return Figure([[panel(t, unit=unit) for unit in units] for t in chosen], names, words)
    if len(chosen) != 1:
        raise ValueError(f"layers by heads are of one token, and {len(chosen)} were given")
    rows = [[panel(chosen[0], [layer], [head]) for head in each_head] for layer in each_layer]
    return Figure(rows, [f"head {n}" for n in each_head], [f"layer {n}" for n in each_layer])


def unit_name(trace: TraceData, unit: tuple[int, int]) -> str:
    """A picture or frame in words."""
    item = trace.items[unit[0]]
    name = f"{item.kind} {unit[0] + 1}" if len(trace.items) > 1 else item.kind
    return name if item.grid[0] == 1 else f"frame {unit[1] + 1}" if len(trace.items) == 1 else f"{name}.{unit[1] + 1}"


def _check_heat(trace: TraceData, by: str, layers: Sequence[int] | None, heads: Sequence[int] | None) -> None:
    """Raises: ValueError where a figure of attention weights cannot be drawn."""
    if trace.attention is None:
        reason = trace.missing.get("attention", "it was written by an older version")
        raise ValueError(f"the trace has no attention weights: {reason}; without --heat the chosen regions are drawn")
    if heads is not None or by in ("head", "layer_head"):
        raise ValueError("heat is the mean over heads, and a trace has no other: leave --heads out, and --by head")
    if (layers is not None or by == "layer") and trace.attention.shape[1] != trace.regions.shape[1]:
        raise ValueError(f"the trace has no heat of single layers: {trace.missing.get('attention', 'only their mean')}")


def _hottest(trace: TraceData, heat: np.ndarray, units: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return max(units, key=lambda unit: heat[trace.entries(*unit)].sum())


def _heaviest(trace: TraceData, share: np.ndarray, units: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return max(units, key=lambda unit: share[trace.regions_of(*unit)].sum())
