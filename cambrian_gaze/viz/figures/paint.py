"""A sheet as pixels and as SVG, and as a file. Both have the same layout; colours are those of `viz.canvas`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from cambrian_gaze.data.media.aspect import Pixels
from cambrian_gaze.files import write_text
from cambrian_gaze.viz import canvas
from cambrian_gaze.viz.draw import MAX_ALPHA, draw_outline, wash
from cambrian_gaze.viz.figures.sheet import Line, Placed, Sheet, Span, layout, scaled
from cambrian_gaze.viz.html import Html, data_uri, element
from cambrian_gaze.viz.render import hex_colour, write_still

SUFFIXES = (".png", ".pdf", ".svg")
UNDER = 0.12
"""Of the height of letters: from their base to the line under what is wrong."""


def sheet_image(sheet: Sheet, side: int | None = None) -> Image.Image:
    """The sheet as pixels; `side` as in `layout`."""
    face = canvas.font(20)
    plan = layout(sheet, lambda word: canvas.token_label(word, face), side)
    paper = Image.new("RGB", (plan.width, plan.height), canvas.PAPER)
    for placed in plan.pictures:
        paper.paste(_panel(placed, plan.stroke), (placed.x, placed.y))
    draw = ImageDraw.Draw(paper)
    for line in plan.lines:
        for x, long, span in line.words:
            draw.text((x, line.y), span.text, font=canvas.font(line.size), fill=_ink(span), anchor="ls")
            if span.wrong:
                low = line.y + round(UNDER * line.size)
                draw.rectangle((x, low, x + long, low + max(1, plan.stroke // 2)), fill=canvas.WRONG)
    return paper


def _panel(placed: Placed, stroke: int) -> Image.Image:
    """A picture in its size on the sheet. It is scaled first and drawn on afterwards, so that borders stay sharp."""
    shot, size = placed.shot, (placed.width, placed.height)
    picture = shot.item.picture(shot.frame)
    if picture.size != size:
        whole = size[0] % picture.width == 0 and size[0] // picture.width * picture.height == size[1]
        picture = picture.resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)
    if shot.light:
        mask = Image.new("L", size, 255)
        for place, light in _scaled(shot.light, placed):
            mask.paste(round(255 * light), place)
        picture = Image.composite(picture, Image.new("RGB", size), mask)
    washed = _scaled(shot.wash, placed)
    picture = wash(picture, [place for place, _ in washed], [weight for _, weight in washed], top=0, grid=False)
    draw = ImageDraw.Draw(picture)
    for place in scaled([box for box in shot.boxes if not _empty(box)], shot.item.size, size):
        draw_outline(draw, place, stroke)
    return picture


def _scaled(weighted: Sequence[tuple[Pixels, float]], placed: Placed) -> list[tuple[Pixels, float]]:
    filled = [(place, weight) for place, weight in weighted if not _empty(place)]
    places = scaled([place for place, _ in filled], placed.shot.item.size, (placed.width, placed.height))
    return [(place, weight) for place, (_, weight) in zip(places, filled, strict=True)]


def _empty(place: Pixels) -> bool:
    return place[2] <= place[0] or place[3] <= place[1]


def sheet_svg(sheet: Sheet, side: int | None = None) -> str:
    """The sheet as SVG: each picture embedded once in its own resolution, the rest as shapes and text."""
    plan = layout(sheet, canvas.token_label, side)
    names: dict[bytes, str] = {}
    pictures, shapes = [], [element("rect", width="100%", height="100%", fill=hex_colour(canvas.PAPER))]
    for placed in plan.pictures:
        item, frame = placed.shot.item, placed.shot.frame
        if item.encoded[frame] not in names:
            names[item.encoded[frame]] = name = f"p{len(names)}"
            soft = None if max(item.size) > 256 else "image-rendering:pixelated"
            size = {"width": item.size[0], "height": item.size[1]}
            pictures.append(element("image", id=name, href=data_uri(item.picture(frame)), **size, style=soft))
        shapes.append(_svg_panel(placed, names[item.encoded[frame]], plan.stroke))
    shapes += [_svg_line(line, plan.stroke) for line in plan.lines]
    whole = element(
        "svg",
        element("defs", pictures),
        shapes,
        xmlns="http://www.w3.org/2000/svg",
        width=plan.width,
        height=plan.height,
        viewBox=f"0 0 {plan.width} {plan.height}",
        font_family="Helvetica, Arial, sans-serif",
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{whole}\n'


def _svg_panel(placed: Placed, name: str, stroke: int) -> Html:
    """Shapes in the picture's own pixels. Their edges are not smoothed: neighbours would show a seam."""
    shot, (width, height) = placed.shot, placed.shot.item.size
    drawn = [element("use", href=f"#{name}")]
    for weighted, colour, opaque in (
        (shot.light, "#000000", lambda light: 1 - light),
        (shot.wash, hex_colour(canvas.GAZE), lambda weight: MAX_ALPHA * min(1.0, weight)),
    ):
        for place, weight in weighted:
            if opaque(weight) > 0 and not _empty(place):
                drawn.append(element("rect", **_box(place), fill=colour, fill_opacity=f"{opaque(weight):.3f}"))
    thick = stroke * width / placed.width
    for x0, y0, x1, y1 in (box for box in shot.boxes if not _empty(box)):
        inside = (x0 + thick / 2, y0 + thick / 2, x1 - thick / 2, y1 - thick / 2)
        line = {"fill": "none", "stroke": hex_colour(canvas.TOP), "stroke_width": f"{thick:.3f}"}
        drawn.append(element("rect", **_box(inside), **line))
    place = {"x": placed.x, "y": placed.y, "width": placed.width, "height": placed.height}
    return element(
        "svg", drawn, **place, viewBox=f"0 0 {width} {height}", preserveAspectRatio="none", shape_rendering="crispEdges"
    )


def _box(place: tuple[float, float, float, float]) -> dict[str, float]:
    x0, y0, x1, y1 = place
    return {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}


def _svg_line(line: Line, stroke: int) -> list[Html]:
    """Each word in the width that the layout gave it, whatever font the reader has."""
    drawn = []
    for x, long, span in line.words:
        place = {"x": f"{x:.1f}", "y": line.y, "font_size": line.size}
        fit = {"textLength": f"{long:.1f}", "lengthAdjust": "spacingAndGlyphs"}
        drawn.append(element("text", span.text, **place, **fit, fill=hex_colour(_ink(span))))
        if span.wrong:
            low = line.y + round(UNDER * line.size)
            bar = {"x": f"{x:.1f}", "y": low, "width": f"{long:.1f}", "height": max(1, stroke // 2) + 1}
            drawn.append(element("rect", **bar, fill=hex_colour(canvas.WRONG)))
    return drawn


def _ink(span: Span) -> tuple[int, int, int]:
    return canvas.WRONG if span.wrong else canvas.QUIET if span.quiet else canvas.INK


def check_suffix(path: str | os.PathLike) -> Path:
    """The path of a sheet. Raises ValueError for a format in which there is none."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path}: a figure of several traces and texts is one picture: end the name with one of "
            f"{', '.join(SUFFIXES)}; a GIF or MP4 shows the panels of one trace (leave out --figure)"
        )
    return path


def write_sheet(path: str | os.PathLike, sheet: Sheet, side: int | None = None) -> Path:
    """Writes a sheet atomically as PNG, PDF (of pixels) or SVG, by the suffix, and returns its path. Raises ValueError
    for another suffix."""
    path = check_suffix(path)
    if path.suffix.lower() == ".svg":
        return write_text(path, sheet_svg(sheet, side))
    return write_still(path, sheet_image(sheet, side))
