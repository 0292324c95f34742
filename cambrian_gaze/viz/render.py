"""Pictures of a trace for papers: the panels of a `figure` as PNG, SVG, PDF or GIF.

A panel is drawn in its picture's own pixels: padding that the model saw is gone, and regions of a stretched picture are
rectangles (`Trace.pixels`). Colours are those of `draw`: the wash is the share of heads, red the regions chosen most.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from cambrian_gaze.files import replacing, write_png, write_text
from cambrian_gaze.viz import canvas
from cambrian_gaze.viz.draw import MAX_ALPHA, draw_outline, heaviest, wash
from cambrian_gaze.viz.figure import Figure, Panel
from cambrian_gaze.viz.film import write_film
from cambrian_gaze.viz.heat import heat_cells, heat_wash
from cambrian_gaze.viz.html import Html, data_uri, element
from cambrian_gaze.viz.trace_data import TraceData

SUFFIXES = (".png", ".svg", ".pdf", ".gif", ".mp4")
EDGE, GAP, LINE, SIDE = 14, 10, 22, 240
MILLISECONDS = 700
"""Of a panel in a GIF or MP4."""
EVICTED = 50
"""Brightness, of 255, of a visual token that no KV head held any more."""
MAX_PIXELS = 150_000_000
"""Larger figures are refused before they are drawn."""


def overlay(trace: TraceData, panel: Panel, *, factor: int = 1, top: int = 1, grid: bool = False) -> Image.Image:
    """One panel in its picture's own resolution, or `factor` times that with hard pixels. A region covers exactly its
    `Trace.pixels`."""
    item, frame = panel.unit
    picture = trace.items[item].picture(frame)
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    if trace.kept is not None:
        picture = Image.composite(picture, Image.new("RGB", picture.size), _kept_mask(trace, panel.unit, picture.size))
    here = trace.regions_of(item, frame)
    weights = panel.share[here]
    most = set(heaviest(panel.share.tolist(), top))
    places = [tuple(factor * edge for edge in trace.pixels[r]) for r in here]
    thick = max(1, round(min(picture.size) / 110))
    if panel.heat is not None:
        picture = heat_wash(trace, picture, panel.heat, panel.unit)
        draw = ImageDraw.Draw(picture)
        for place in (place for r, place in zip(here, places, strict=True) if r in most):
            draw_outline(draw, place, thick)
        return picture
    return wash(picture, places, weights.tolist(), top=sum(r in most for r in here), grid=grid, thick=thick)


def _kept_mask(trace: TraceData, unit: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """ "L" of a picture's size: bright where a visual token is still held by all KV heads, dark where by none."""
    held = trace.kept.mean(0)[trace.entries(*unit)]
    mask = Image.new("L", trace.items[unit[0]].size, 255)
    draw = ImageDraw.Draw(mask)
    for (x0, y0, x1, y1), share in zip(trace.entry_pixels(unit[0]), held.tolist(), strict=True):
        if x1 > x0 and y1 > y0:
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=round(EVICTED + (255 - EVICTED) * share))
    return mask.resize(size, Image.Resampling.NEAREST)


def _sizes(trace: TraceData, plan: Figure, side: int | None) -> list[list[tuple[int, int]]]:
    """Width and height of every panel: `side` on the longer edge; by default `SIDE`, and of one panel the picture's."""
    single = len(plan.rows) == plan.width == 1
    sizes = []
    for row in plan.rows:
        own = [trace.items[panel.unit[0]].size for panel in row]
        if side is None and single:
            sizes.append(own)
            continue
        scaled = [(side or SIDE) / max(size) for size in own]
        sizes.append([(max(1, round(w * s)), max(1, round(h * s))) for (w, h), s in zip(own, scaled, strict=True)])
    return sizes


def _layout(trace: TraceData, plan: Figure, side: int | None) -> tuple[tuple[int, int], list[list[tuple[int, ...]]]]:
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


def render_image(trace: TraceData, plan: Figure, *, side: int | None = None, top: int = 1) -> Image.Image:
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


def render_rows(
    traces: Sequence[tuple[str, TraceData]], plans: Sequence[Figure], *, side: int | None = None, top: int = 1
) -> Image.Image:
    """The figures of several traces below each other, each with its name above: dense, gaze, eviction."""
    drawn = [render_image(trace, plan, side=side, top=top) for (_, trace), plan in zip(traces, plans, strict=True)]
    high = sum(image.height + LINE + EDGE for image in drawn) + EDGE
    paper = Image.new("RGB", (max(image.width for image in drawn), high), canvas.PAPER)
    if paper.width * paper.height > MAX_PIXELS:
        raise ValueError(f"the figure would be {paper.width}x{paper.height} pixels; show fewer panels, or smaller ones")
    draw, y = ImageDraw.Draw(paper), EDGE
    for (name, _), image in zip(traces, drawn, strict=True):
        canvas.write(draw, (EDGE, y), name, 16, width=paper.width - 2 * EDGE, anchor="la")
        paper.paste(image, (0, y + LINE))
        y += image.height + LINE + EDGE
    return paper


def render_film(trace: TraceData, plan: Figure, *, side: int | None = None, top: int = 1) -> list[Image.Image]:
    """The panels one after the other, each with its label, all on paper of one size."""
    alone = [render_image(trace, Figure([[p]]), side=side, top=top) for row in plan.rows for p in row]
    size = max(image.width for image in alone), max(image.height for image in alone)
    film = [Image.new("RGB", size, canvas.PAPER) for _ in alone]
    for paper, image in zip(film, alone, strict=True):
        paper.paste(image, ((size[0] - image.width) // 2, 0))
    return film


def render_svg(trace: TraceData, plan: Figure, *, side: int | None = None, top: int = 1) -> str:
    """The figure as SVG: pictures embedded once each in their own resolution, regions and text as shapes."""
    size, places = _layout(trace, plan, side)
    units = sorted({panel.unit for row in plan.rows for panel in row})
    pictures = [
        element(
            "image",
            id=f"p{item}-{frame}",
            href=data_uri(trace.items[item].picture(frame)),
            width=trace.items[item].size[0],
            height=trace.items[item].size[1],
            style="image-rendering:pixelated" if max(trace.items[item].size) <= 256 else None,
        )
        for item, frame in units
    ]
    shapes: list[Html] = [element("rect", width="100%", height="100%", fill=hex_colour(canvas.PAPER))]
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
        "svg",
        element("defs", pictures),
        shapes,
        xmlns="http://www.w3.org/2000/svg",
        width=size[0],
        height=size[1],
        viewBox=f"0 0 {size[0]} {size[1]}",
        font_family="Helvetica, Arial, sans-serif",
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{whole}\n'


def _svg_panel(trace: TraceData, panel: Panel, spot: tuple[int, ...], top: int) -> Html:
    item, frame = panel.unit
    width, height = trace.items[item].size
    most = set(heaviest(panel.share.tolist(), top))
    thick = min(width, height) / 110
    drawn = [element("use", href=f"#p{item}-{frame}")]
    for (x0, y0, x1, y1), opacity in [] if panel.heat is None else heat_cells(trace, panel.heat, panel.unit):
        box = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "shape_rendering": "crispEdges"}
        drawn.append(element("rect", **box, fill=hex_colour(canvas.GAZE), fill_opacity=f"{opacity:.3f}"))
    here = [r for r in trace.regions_of(item, frame) if panel.share[r] > 0 and trace.pixels[r][2] > trace.pixels[r][0]]
    for outline in (False, True):
        for r in here:
            x0, y0, x1, y1 = trace.pixels[r]
            inset = thick / 2 if outline else 0
            box = {"x": x0 + inset, "y": y0 + inset, "width": x1 - x0 - 2 * inset, "height": y1 - y0 - 2 * inset}
            if outline and r in most:
                drawn.append(
                    element("rect", **box, fill="none", stroke=hex_colour(canvas.TOP), stroke_width=f"{thick:.3f}")
                )
            elif not outline and panel.heat is None:
                opacity = f"{MAX_ALPHA * min(1.0, panel.share[r]):.3f}"
                drawn.append(element("rect", **box, fill=hex_colour(canvas.GAZE), fill_opacity=opacity))
    x, y, w, h = spot
    frame_of = {"x": x, "y": y, "width": w, "height": h, "viewBox": f"0 0 {width} {height}"}
    return element("svg", drawn, **frame_of, preserveAspectRatio="none")


def _words(x: float, y: float, text: str, size: int, colour=canvas.INK, anchor: str = "middle") -> Html:
    return element("text", text, x=x, y=y, font_size=size, text_anchor=anchor, fill=hex_colour(colour))


def hex_colour(colour: Sequence[int]) -> str:
    """A colour of `canvas` as SVG writes it."""
    return "#" + "".join(f"{part:02x}" for part in colour)


def write_figure(
    path: str | os.PathLike, trace: TraceData, plan: Figure, *, side: int | None = None, top: int = 1
) -> Path:
    """Writes a figure atomically in the format of the path's suffix, one of `SUFFIXES` (a PDF holds pixels, GIF and MP4
    show one panel after the other), and returns its path. Raises ValueError for another suffix; ImportError for MP4
    without PyAV."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a figure is written as {', '.join(SUFFIXES)}; end the name with one of these")
    if path.suffix.lower() == ".svg":
        return write_text(path, render_svg(trace, plan, side=side, top=top))
    if path.suffix.lower() == ".gif":
        first, *others = render_film(trace, plan, side=side, top=top)
        with replacing(path) as temporary:
            first.save(
                temporary, format="GIF", save_all=True, append_images=others, duration=MILLISECONDS, loop=0, disposal=1
            )
        return path
    if path.suffix.lower() == ".mp4":
        return write_film(path, render_film(trace, plan, side=side, top=top))
    return write_still(path, render_image(trace, plan, side=side, top=top))


def write_still(path: str | os.PathLike, image: Image.Image) -> Path:
    """Writes a picture as PNG or PDF, by the suffix, atomically, and returns its path. Raises ValueError for others."""
    path = Path(path)
    if path.suffix.lower() == ".png":
        return write_png(path, image)
    if path.suffix.lower() != ".pdf":
        raise ValueError(
            f"{path}: a figure of several traces is written as .png or .pdf; end the name with one of these"
        )
    with replacing(path) as temporary:
        image.save(temporary, format="PDF", resolution=300, quality=95)
    return path
