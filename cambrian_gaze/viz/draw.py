"""Weights of regions, drawn on the picture that the model saw.

The wash over a region is as opaque as the share of (layer, head) pairs that chose it; the regions chosen most have a
red outline; blue corners mark a region that the question asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw

from cambrian_gaze.viz import canvas
from cambrian_gaze.viz.regions import as_boxes, grid_extent, pixel_box

MAX_ALPHA = 0.62
"""Opacity of the wash over a region that every pair chose: what lies below can still be read."""


def draw_gaze(
    image: Image.Image,
    boxes: Iterable[Sequence[int]],
    weights: Sequence[float],
    *,
    grid_hw: tuple[int, int] | None = None,
    side: int = 384,
    top: int = 1,
    asked: int | None = None,
    grid: bool = True,
) -> Image.Image:
    """An image with its regions washed by weight.

    `image` is the picture that the token grid spans (`data.aspect.model_view`): padded to a square where the processor
    pads, in its own shape where it stretches; regions of a wide one are rectangles.
    `boxes` are the regions of this one image or frame, as (top, left, bottom, right) or as a trace gives them, in grid
    tokens; `weights` in [0, 1], one per box. `grid_hw` defaults to what the boxes tile. A picture smaller than `side`
    is enlarged by a whole factor with hard pixels. `top` outlines that many of the heaviest regions (and their equals),
    `asked` marks the corners of one, `grid` draws the region borders as faint lines. Pixels of regions with weight 0
    are left as they are, but for those lines.
    """
    boxes = as_boxes(boxes)
    weights = [float(weight) for weight in weights]
    if len(boxes) != len(weights):
        raise ValueError(f"{len(boxes)} regions, but {len(weights)} weights")
    if any(not 0.0 <= weight <= 1.0 + 1e-6 for weight in weights):
        raise ValueError(f"weights must lie in [0, 1]: {min(weights)} to {max(weights)}")
    if asked is not None and not 0 <= asked < len(boxes):
        raise ValueError(f"asked region {asked} is none of the {len(boxes)} regions")
    grid_hw = grid_hw or grid_extent(boxes)[1:]
    picture = canvas.fit(image, side)
    places = [pixel_box(box, grid_hw, picture.size) for box in boxes]

    return wash(picture, places, weights, top=top, asked=asked, grid=grid)


def wash(
    picture: Image.Image,
    places: Sequence[tuple[int, int, int, int]],
    weights: Sequence[float],
    *,
    top: int = 1,
    asked: int | None = None,
    grid: bool = True,
    thick: int | None = None,
) -> Image.Image:
    """An RGB picture with regions washed by weight, at `places` (x0, y0, x1, y1) in its own pixels, ends exclusive;
    empty ones are left out. Outlines are `thick` pixels wide. The rest as in `draw_gaze`."""
    ground = Image.new("RGB", picture.size, canvas.GAZE)
    alpha = Image.new("L", picture.size, 0)
    for place, weight in zip(places, weights, strict=True):
        if weight > 0 and place[2] > place[0] and place[3] > place[1]:
            alpha.paste(round(255 * MAX_ALPHA * min(1.0, weight)), place)
    picture = Image.composite(ground, picture, alpha)

    thick = thick or max(1, round(max(picture.size) / 80))
    if grid:
        _draw_grid(picture, places)
    draw = ImageDraw.Draw(picture)
    for place in heaviest(weights, top):
        draw_outline(draw, places[place], thick)
    if asked is not None:
        draw_corners(draw, places[asked], thick)
    return picture


def draw_regions(
    image: Image.Image, boxes: Iterable[Sequence[int]], *, grid_hw: tuple[int, int], side: int = 384
) -> Image.Image:
    """An image with the borders of its regions, rows and columns of a grid, to be seen on any ground: a light line
    beside a dark one. Arguments as in `draw_gaze`."""
    picture = canvas.fit(image, side)
    width, height = picture.size
    places = [pixel_box(box, grid_hw, picture.size) for box in as_boxes(boxes)]
    draw = ImageDraw.Draw(picture)
    for colour, offset in (((40, 44, 52), -1), ((235, 238, 242), 0)):
        for x in {place[0] for place in places} - {0}:
            draw.line((x + offset, 0, x + offset, height - 1), fill=colour)
        for y in {place[1] for place in places} - {0}:
            draw.line((0, y + offset, width - 1, y + offset), fill=colour)
    return picture


def heaviest(weights: Sequence[float], top: int) -> list[int]:
    """Places of the `top` largest weights above zero, and of those that equal the last of them."""
    positive = sorted((weight for weight in weights if weight > 0), reverse=True)
    if top < 1 or not positive:
        return []
    least = positive[min(top, len(positive)) - 1] - 1e-6
    return [place for place, weight in enumerate(weights) if weight > 0 and weight >= least]


def _draw_grid(picture: Image.Image, places: Sequence[tuple[int, int, int, int]]) -> None:
    """Faint lines on the upper and left pixels of each region; none along the picture's own edge."""
    lines = Image.new("L", picture.size, 0)
    draw = ImageDraw.Draw(lines)
    for x0, y0, x1, y1 in places:
        if y0:
            draw.line((x0, y0, x1 - 1, y0), fill=90)
        if x0:
            draw.line((x0, y0, x0, y1 - 1), fill=90)
    picture.paste(Image.new("RGB", picture.size, (128, 134, 145)), (0, 0), lines)


def _fill(draw: ImageDraw.ImageDraw, place: tuple[int, int, int, int], bar: tuple[int, int, int, int], colour) -> None:
    """Fills the part of a bar (ends exclusive) that lies inside a region."""
    x0, y0, x1, y1 = max(place[0], bar[0]), max(place[1], bar[1]), min(place[2], bar[2]), min(place[3], bar[3])
    if x1 > x0 and y1 > y0:
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=colour)


def draw_outline(draw: ImageDraw.ImageDraw, place: tuple[int, int, int, int], thick: int) -> None:
    x0, y0, x1, y1 = place
    for bar in ((x0, y0, x1, y0 + thick), (x0, y1 - thick, x1, y1), (x0, y0, x0 + thick, y1), (x1 - thick, y0, x1, y1)):
        _fill(draw, place, bar, canvas.TOP)


def draw_corners(draw: ImageDraw.ImageDraw, place: tuple[int, int, int, int], thick: int) -> None:
    x0, y0, x1, y1 = place
    arm_x, arm_y = max(thick, (x1 - x0) // 4), max(thick, (y1 - y0) // 4)
    for wide, tall in ((arm_x, thick), (thick, arm_y)):
        for left in (x0, x1 - wide):
            for top in (y0, y1 - tall):
                _fill(draw, place, (left, top, left + wide, top + tall), canvas.ASKED)
