"""Pictures of a trace for papers: which panels there are, and their drawing as PNG, SVG or PDF.

A panel is drawn in its picture's own pixels: padding that the model saw is gone, and regions of a stretched picture are
rectangles (`Trace.pixels`). Colours are those of `draw`: the wash is the share of heads, red the regions chosen most.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cambrian_gaze.viz import canvas
from cambrian_gaze.viz.draw import MAX_ALPHA, heaviest, wash
from cambrian_gaze.viz.files import replacing, write_png, write_text
from cambrian_gaze.viz.html import Html, data_uri, element
from cambrian_gaze.viz.trace import Trace

KINDS = ("token", "layer", "head", "layer_head", "frame")
SUFFIXES = (".png", ".svg", ".pdf")
EDGE, GAP, LINE, SIDE = 14, 10, 22, 240
MAX_PIXELS = 150_000_000
"""Larger figures are refused before they are drawn."""


@dataclass(frozen=True)
class Panel:
    """One picture with its regions."""

    unit: tuple[int, int]
    """(item, frame)."""

    share: np.ndarray
    """float64 [R]."""

    label: str = ""
    """Below it."""


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
    trace: Trace,
    by: str = "token",
    *,
    tokens: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    frames: Sequence[int] | None = None,
    columns: int = 6,
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

    Raises: ValueError for what there is not.
    """
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

    def panel(token: int, some_layers=layers, some_heads=heads, unit=None, label: str = "") -> Panel:
        share = trace.share(token, some_layers, some_heads)
        return Panel(unit or _heaviest(trace, share, units), share, label)

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


def unit_name(trace: Trace, unit: tuple[int, int]) -> str:
    """A picture or frame in words."""
    item = trace.items[unit[0]]
    name = f"{item.kind} {unit[0] + 1}" if len(trace.items) > 1 else item.kind
    return name if item.grid[0] == 1 else f"frame {unit[1] + 1}" if len(trace.items) == 1 else f"{name}.{unit[1] + 1}"


def _heaviest(trace: Trace, share: np.ndarray, units: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return max(units, key=lambda unit: share[trace.regions_of(*unit)].sum())


def overlay(trace: Trace, panel: Panel, *, factor: int = 1, top: int = 1, grid: bool = False) -> Image.Image:
    """One panel in its picture's own resolution, or `factor` times that with hard pixels. A region covers exactly its
    `Trace.pixels`."""
    item, frame = panel.unit
    picture = trace.items[item].picture(frame)
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    here = trace.regions_of(item, frame)
    weights = panel.share[here]
    most = set(heaviest(panel.share.tolist(), top))
    places = [tuple(factor * edge for edge in trace.pixels[r]) for r in here]
    thick = max(1, round(min(picture.size) / 110))
    return wash(picture, places, weights.tolist(), top=sum(r in most for r in here), grid=grid, thick=thick)


def _sizes(trace: Trace, plan: Figure, side: int | None) -> list[list[tuple[int, int]]]:
    """Width and height of every panel: `side` on the longer edge; by default `SIDE`, and of one panel the picture's."""
    single = len(plan.rows) == plan.width == 1
    sizes = []
    for row in plan.rows:
        own = [trace.items[panel.unit[0]].size for panel in row]
        if side is None and single:
            sizes.append(own)
            continue
        scaled = [(side or SIDE) / max(size) for size in own]
        sizes.append(
            [(max(1, round(w * s)), max(1, round(h * s))) for (w, h), s in zip(own, scaled, strict=True)]
        )
    return sizes


def _layout(trace: Trace, plan: Figure, side: int | None) -> tuple[tuple[int, int], list[list[tuple[int, ...]]]]:
    """Size of the paper, and (x, y, width, height) of every panel."""
    sizes = _sizes(trace, plan, side)
    if plan.bare:
        return sizes[0][0], [[(0, 0, *sizes[0][0])]]
    left = EDGE + (max(90, min(180, max(9 * len(name) for name in plan.names))) if plan.names else 0)
    y = EDGE + (LINE if plan.columns else 0)
    wide = max(width for row in sizes for width, _ in row)
    below = LINE if any(panel.label for row in plan.rows for panel in row) else 0
    places = []
    for row in sizes:
        places.append([(left + n * (wide + GAP), y, *size) for n, size in enumerate(row)])
        y += max(height for _, height in row) + below + GAP
    paper = left + plan.width * (wide + GAP) - GAP + EDGE, y - GAP + EDGE
    if paper[0] * paper[1] > MAX_PIXELS:
        raise ValueError(f"the figure would be {paper[0]}x{paper[1]} pixels; show fewer panels, or smaller ones (side)")
    return paper, places


def render_image(trace: Trace, plan: Figure, *, side: int | None = None, top: int = 1) -> Image.Image:
    """The figure as pixels."""
    size, places = _layout(trace, plan, side)
    paper = Image.new("RGB", size, canvas.PAPER)
    draw = ImageDraw.Draw(paper)
    for row, (panels, spots) in enumerate(zip(plan.rows, places, strict=True)):
        for column, (panel, (x, y, w, h)) in enumerate(zip(panels, spots, strict=True)):
            own = trace.items[panel.unit[0]].size
            factor = max(1, max(w, h) // max(own))
            drawn = overlay(trace, panel, factor=factor, top=top)
            paper.paste(drawn if drawn.size == (w, h) else drawn.resize((w, h), Image.Resampling.LANCZOS), (x, y))
            if panel.label:
                canvas.write(draw, (x + w / 2, y + h + 3), panel.label, 14, width=w, anchor="ma")
            if row == 0 and plan.columns:
                canvas.write(draw, (x + w / 2, EDGE), plan.columns[column], 13, fill=canvas.QUIET, width=w, anchor="ma")
        if plan.names:
            x, y, _, h = spots[0]
            canvas.write(draw, (EDGE, y + h / 2), plan.names[row], 15, width=x - EDGE - 8, anchor="lm")
    return paper


def render_svg(trace: Trace, plan: Figure, *, side: int | None = None, top: int = 1) -> str:
    """The figure as SVG: pictures embedded once each in their own resolution, regions and text as shapes."""
    size, places = _layout(trace, plan, side)
    units = sorted({panel.unit for row in plan.rows for panel in row})
    pictures = [
        element("image", id=f"p{item}-{frame}", href=data_uri(trace.items[item].picture(frame)),
                width=trace.items[item].size[0], height=trace.items[item].size[1],
                style="image-rendering:pixelated" if max(trace.items[item].size) <= 256 else None)
        for item, frame in units
    ]
    shapes: list[Html] = [element("rect", width="100%", height="100%", fill=_hex(canvas.PAPER))]
    for row, (panels, spots) in enumerate(zip(plan.rows, places, strict=True)):
        for column, (panel, spot) in enumerate(zip(panels, spots, strict=True)):
            x, y, w, h = spot
            shapes.append(_svg_panel(trace, panel, spot, top))
            if panel.label:
                shapes.append(_words(x + w / 2, y + h + 16, canvas.token_label(panel.label), 14))
            if row == 0 and plan.columns:
                shapes.append(_words(x + w / 2, EDGE + 13, plan.columns[column], 13, canvas.QUIET))
        if plan.names:
            y, h = spots[0][1], spots[0][3]
            shapes.append(_words(EDGE, y + h / 2 + 5, canvas.token_label(plan.names[row]), 15, anchor="start"))
    whole = element(
        "svg", element("defs", pictures), shapes, xmlns="http://www.w3.org/2000/svg", width=size[0], height=size[1],
        viewBox=f"0 0 {size[0]} {size[1]}", font_family="Helvetica, Arial, sans-serif",
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{whole}\n'


def _svg_panel(trace: Trace, panel: Panel, spot: tuple[int, ...], top: int) -> Html:
    item, frame = panel.unit
    width, height = trace.items[item].size
    most = set(heaviest(panel.share.tolist(), top))
    thick = min(width, height) / 110
    drawn = [element("use", href=f"#p{item}-{frame}")]
    here = [r for r in trace.regions_of(item, frame) if panel.share[r] > 0 and trace.pixels[r][2] > trace.pixels[r][0]]
    for outline in (False, True):
        for r in here:
            x0, y0, x1, y1 = trace.pixels[r]
            inset = thick / 2 if outline else 0
            box = {"x": x0 + inset, "y": y0 + inset, "width": x1 - x0 - 2 * inset, "height": y1 - y0 - 2 * inset}
            if outline and r in most:
                drawn.append(element("rect", **box, fill="none", stroke=_hex(canvas.TOP), stroke_width=f"{thick:.3f}"))
            elif not outline:
                opacity = f"{MAX_ALPHA * min(1.0, panel.share[r]):.3f}"
                drawn.append(element("rect", **box, fill=_hex(canvas.GAZE), fill_opacity=opacity))
    x, y, w, h = spot
    frame_of = {"x": x, "y": y, "width": w, "height": h, "viewBox": f"0 0 {width} {height}"}
    return element("svg", drawn, **frame_of, preserveAspectRatio="none")


def _words(x: float, y: float, text: str, size: int, colour=canvas.INK, anchor: str = "middle") -> Html:
    return element("text", text, x=x, y=y, font_size=size, text_anchor=anchor, fill=_hex(colour))


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def write_figure(
    path: str | os.PathLike, trace: Trace, plan: Figure, *, side: int | None = None, top: int = 1
) -> Path:
    """Writes a figure atomically in the format of the path's suffix, one of `SUFFIXES` (a PDF holds pixels), and
    returns its path. Raises ValueError for another suffix."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a figure is written as {', '.join(SUFFIXES)}; end the name with one of these")
    if path.suffix.lower() == ".svg":
        return write_text(path, render_svg(trace, plan, side=side, top=top))
    image = render_image(trace, plan, side=side, top=top)
    if path.suffix.lower() == ".png":
        return write_png(path, image)
    with replacing(path) as temporary:
        image.save(temporary, format="PDF", resolution=300, quality=95)
    return path
