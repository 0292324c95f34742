"""The gaze of generated tokens: a panel for each, and strips of panels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image, ImageDraw
from torch import Tensor

from cambrian_gaze.viz import canvas
from cambrian_gaze.viz.draw import MAX_ALPHA, draw_corners, draw_gaze, draw_outline, heaviest
from cambrian_gaze.viz.regions import RegionBox, as_boxes, grid_extent, region_share

Frames = Image.Image | Sequence[Image.Image]
EDGE, GAP = 18, 14


class Trace(Protocol):
    """What the pictures need of a gaze trace."""

    regions: Tensor
    """int64 [batch, new tokens, layers, heads, K]; -1 where there is none."""

    def region_boxes(self, batch_index: int) -> Sequence[Sequence[int]]:
        """(item, frame0, frame1, top, left, bottom, right) of each region of one sample, ends exclusive."""


@dataclass(frozen=True)
class TokenPanel:
    """One generated token and the picture of its gaze."""

    token: str
    image: Image.Image
    """The image with its wash, or for video and several images a row of those that were looked at."""
    share: float
    """Share of the (layer, head) pairs that chose the most chosen region."""
    asked_share: float | None = None
    """The same for the asked region, where one is known."""
    pairs: int = 0
    """How many (layer, head) pairs routed."""
    correct: bool | None = None


def _units(images: Sequence[Frames], boxes: Sequence[RegionBox]) -> list[tuple[str, Image.Image, int, int]]:
    """(name, picture, item, frame) of each image and frame, in order of appearance."""
    items = sorted({box.item for box in boxes if not box.empty})
    if len(items) != len(images):
        raise ValueError(f"the trace has regions in {len(items)} images or videos, but {len(images)} were given")
    units = []
    for order, (item, frames) in enumerate(zip(items, images, strict=True)):
        count = grid_extent(box for box in boxes if box.item == item)[0]
        frames = [frames] if isinstance(frames, Image.Image) else list(frames)
        if len(frames) != count:
            raise ValueError(f"item {order} has {count} frames in the trace, but {len(frames)} pictures were given")
        name = f"image {order + 1}" if count == 1 else "frame" if len(items) == 1 else f"video {order + 1}, frame"
        units += [(name if count == 1 else f"{name} {f + 1}", frames[f], item, f) for f in range(count)]
    return units


@dataclass(frozen=True)
class PanelLook:
    """How panels are drawn."""

    side: int = 160
    """Longer side of a picture, in pixels."""
    top: int = 1
    """Heaviest regions that get a frame."""
    max_units: int = 6
    """Most images or frames of a panel."""


def token_panels(
    trace: Trace,
    tokens: Sequence[str],
    images: Frames | Sequence[Frames],
    *,
    batch_index: int = 0,
    select: Iterable[int] | None = None,
    asked: Sequence[int | None] | None = None,
    correct: Sequence[bool | None] | None = None,
    look: PanelLook = PanelLook(),
) -> list[TokenPanel]:
    """One panel per generated token.

    `tokens` are the texts of the new tokens of sample `batch_index`, at most as many as the trace has. `images` are
    the sample's pictures in order of appearance as the model saw them: one image, or a sequence whose elements are
    images or (for a video) sequences of frames. `select` keeps some token places; `asked` gives a region per token
    and `correct` a verdict, None for none. With several images or frames a panel shows those with weight (or asked
    for), the heaviest `look.max_units` of them in order.
    """
    if isinstance(images, Image.Image):
        images = [images]
    boxes = as_boxes(trace.region_boxes(batch_index))
    units = _units(images, boxes)
    regions = trace.regions[batch_index]  # [new tokens, layers, heads, K]
    if len(tokens) > regions.shape[0]:
        raise ValueError(f"{len(tokens)} tokens, but the trace has {regions.shape[0]}")
    for name, given in (("asked", asked), ("correct", correct)):
        if given is not None and len(given) != len(tokens):
            raise ValueError(f"{len(tokens)} tokens, but {len(given)} entries in {name}")
    panels = []
    for step in range(len(tokens)) if select is None else select:
        share = region_share(regions[step], len(boxes)).tolist()
        target = None if asked is None else asked[step]
        panels.append(
            TokenPanel(
                token=tokens[step],
                image=_token_picture(units, boxes, share, target, look),
                share=max(share, default=0.0),
                asked_share=None if target is None else share[target],
                pairs=int((regions[step] >= 0).any(-1).sum()),
                correct=None if correct is None else correct[step],
            )
        )
    return panels


def _token_picture(units, boxes, share, asked, look: PanelLook) -> Image.Image:
    """The picture of one token: its only image, or a captioned row of the units that were looked at."""
    most = set(heaviest(share, look.top))
    drawn = []
    for name, picture, item, frame in units:
        mine = [p for p, box in enumerate(boxes) if box.item == item and box.frame0 <= frame < box.frame1]
        mine = [p for p in mine if not boxes[p].empty]
        wanted = asked in mine
        weight = sum(share[p] for p in mine)
        if len(units) > 1 and not weight and not wanted:
            continue
        image = draw_gaze(
            picture,
            [boxes[p] for p in mine],
            [share[p] for p in mine],
            side=look.side,
            top=sum(p in most for p in mine),
            asked=mine.index(asked) if wanted else None,
            grid_hw=grid_extent(box for box in boxes if box.item == item)[1:],
        )
        drawn.append((weight + wanted, name, image))
    if len(units) == 1:
        return drawn[0][2]
    kept = sorted(sorted(range(len(drawn)), key=lambda n: -drawn[n][0])[: look.max_units])
    left_out = len(drawn) - len(kept)
    return _row([drawn[n][1:] for n in kept], look.side, f"+{left_out} more" if left_out else "" if kept else "none")


def _row(named: Sequence[tuple[str, Image.Image]], side: int, remark: str) -> Image.Image:
    gap, caption = 6, 18
    extra = 60 if remark else 0
    width = max(1, sum(image.width for _, image in named) + gap * max(0, len(named) - 1) + extra)
    height = max((image.height for _, image in named), default=side // 3)
    row = Image.new("RGB", (width, height + caption), canvas.PAPER)
    draw, x = ImageDraw.Draw(row), 0
    for name, image in named:
        row.paste(image, (x, 0))
        canvas.write(draw, (x, height + 3), name, 12, fill=canvas.QUIET, width=image.width)
        x += image.width + gap
    if remark:
        canvas.write(draw, (x + 2, height / 2), remark, 13, fill=canvas.QUIET, anchor="lm")
    return row


def gaze_strip(
    trace: Trace,
    tokens: Sequence[str],
    images: Frames | Sequence[Frames],
    *,
    columns: int = 6,
    title: str = "",
    key: bool = True,
    font_path: str | None = None,
    **options,
) -> Image.Image:
    """All panels on one white picture, `columns` to a row; with several images or frames one row per token.
    `options` are those of `token_panels`."""
    panels = token_panels(trace, tokens, images, **options)
    boxes = as_boxes(trace.region_boxes(options.get("batch_index", 0)))
    single = len({box.item for box in boxes if not box.empty}) == 1 and grid_extent(boxes)[0] == 1
    shown = {"title": title, "key": key, "font_path": font_path}
    return arrange(panels, columns=columns, **shown) if single else stack(panels, **shown)


def arrange(
    panels: Sequence[TokenPanel], *, columns: int = 6, title: str = "", key: bool = True, font_path: str | None = None
) -> Image.Image:
    """Panels in rows on white paper, each token's text and share below its picture."""
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    columns = min(columns, max(1, len(panels)))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    cell = max((panel.image.width for panel in panels), default=160)
    tallest = [max(panel.image.height for panel in row) for row in rows]
    paper, draw, y = _paper(
        columns * cell + (columns - 1) * GAP, sum(tallest) + len(rows) * (44 + GAP) - GAP, panels, title, key, font_path
    )
    for row, height in zip(rows, tallest, strict=True):
        for place, panel in enumerate(row):
            x = EDGE + place * (cell + GAP)
            middle = x + panel.image.width / 2
            paper.paste(panel.image, (x, y))
            canvas.write(
                draw,
                (middle, y + height + 5),
                panel.token,
                17,
                fill=_ink(panel),
                width=cell,
                anchor="ma",
                font_path=font_path,
            )
            canvas.write(
                draw, (middle, y + height + 26), share_text(panel), 12, fill=canvas.QUIET, width=cell, anchor="ma"
            )
        y += height + 44 + GAP
    return paper


def stack(
    panels: Sequence[TokenPanel], *, title: str = "", key: bool = True, font_path: str | None = None
) -> Image.Image:
    """One row per token on white paper: its text and share on the left, its frames on the right."""
    label = 130
    widest = max((panel.image.width for panel in panels), default=160)
    height = sum(panel.image.height + GAP for panel in panels) - GAP
    paper, draw, y = _paper(label + widest, height, panels, title, key, font_path)
    for panel in panels:
        middle = y + panel.image.height / 2 - 9  # of the pictures, without the line of captions below them
        canvas.write(
            draw,
            (EDGE, middle - 1),
            panel.token,
            17,
            fill=_ink(panel),
            width=label - 12,
            anchor="ls",
            font_path=font_path,
        )
        canvas.write(draw, (EDGE, middle + 7), share_text(panel), 12, fill=canvas.QUIET, width=label - 12)
        paper.paste(panel.image, (EDGE + label, y))
        y += panel.image.height + GAP
    return paper


def _paper(width, height, panels, title, key, font_path) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """White paper with title and key, room for `width` x `height` pixels, and where that room begins."""
    asked = any(panel.asked_share is not None for panel in panels)
    head = (34 if title else 0) + (28 if key else 0)
    width = max(width, (500 if asked else 400) if key else 0)
    paper = Image.new("RGB", (width + 2 * EDGE, max(0, height) + head + 2 * EDGE), canvas.PAPER)
    draw, y = ImageDraw.Draw(paper), EDGE
    if title:
        canvas.write(draw, (EDGE, y), title, 20, width=width, font_path=font_path)
        y += 34
    if key:
        _draw_key(draw, EDGE, y, asked, single=all(panel.pairs < 2 for panel in panels))
        y += 28
    return paper, draw, y


def _ink(panel: TokenPanel) -> tuple[int, int, int]:
    return {None: canvas.INK, True: canvas.RIGHT, False: canvas.WRONG}[panel.correct]


def share_text(panel: TokenPanel) -> str:
    """What stands below a panel: the asked region's share where one is known, else the highest. A head alone either
    looked there or did not."""
    if not panel.pairs:
        return "looked nowhere"
    if panel.pairs == 1 and panel.asked_share is not None:
        return "looked at asked" if panel.asked_share else "looked elsewhere"
    if panel.asked_share is not None:
        return f"{panel.asked_share:.0%} on asked"
    return f"{panel.share:.0%} on top region"


def _draw_key(draw: ImageDraw.ImageDraw, x: int, y: int, asked: bool, single: bool) -> None:
    """What the colours mean; a head alone has no shares."""
    for offset in range(14 if single else 90):
        blend = MAX_ALPHA * (1.0 if single else offset / 89)
        shade = tuple(round((1 - blend) * 255 + blend * part) for part in canvas.GAZE)
        draw.line((x + offset, y - 1, x + offset, y + 12), fill=shade)
    if single:
        draw_outline(draw, (x, y - 1, x + 14, y + 13), 2)
        canvas.write(draw, (x + 20, y - 1), "chosen by the head", 13, fill=canvas.QUIET)
        x += 160
    else:
        draw.rectangle((x, y - 1, x + 89, y + 12), outline=canvas.LINE)
        canvas.write(draw, (x + 98, y - 1), "0 to 100 % of heads and layers", 13, fill=canvas.QUIET)
        x += 300
        draw_outline(draw, (x, y - 1, x + 14, y + 13), 2)
        canvas.write(draw, (x + 20, y - 1), "chosen most", 13, fill=canvas.QUIET)
        x += 118
    if asked:
        draw_corners(draw, (x, y - 1, x + 14, y + 13), 2)
        canvas.write(draw, (x + 20, y - 1), "asked for", 13, fill=canvas.QUIET)
