"""How a picture of any shape becomes the model's square one, and where in the picture each token looks.

`pad`: the picture in the middle of a square of the mean colour, as LLaVA-1.5 and Cambrian-1. `square`: stretched, as
the published gaze models; regions of a wide picture are wide, and no token looks at padding.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

ASPECTS = ("pad", "square")
"""Known values of `image_aspect_ratio`, by LLaVA's names."""

Pixels = tuple[int, int, int, int]


def check_aspect(value: str) -> str:
    """`value`, one of `ASPECTS`. Raises ValueError with the reason for LLaVA's others."""
    if value in ASPECTS:
        return value
    if str(value).startswith("anyres") or value in ("highres", "crop_split", "spatial"):
        reason = "cuts a picture into tiles beside a base view, and this model sees one view of a fixed grid"
    else:
        reason = "is unknown"
    raise ValueError(f"image_aspect_ratio {value!r} {reason}; use one of {', '.join(ASPECTS)}")


def pad_to_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """The picture in the middle of a square filled with the colour `mean` (RGB, 0 to 1: the processor's own mean),
    cut to whole levels as upstream does: 0.5 is 127."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), tuple(int(255 * value) for value in mean))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def model_view(image: Image.Image, aspect: str, mean: Sequence[float]) -> Image.Image:
    """The picture that the token grid spans, in its own shape: what pictures of regions are drawn on."""
    return pad_to_square(image, mean) if check_aspect(aspect) == "pad" else image


def unstretched(image: Image.Image, size: tuple[int, int], aspect: str) -> Image.Image:
    """The model's square picture in the shape of `model_view` of a picture of `size` (width, height), no side longer
    than it was."""
    if aspect == "pad":
        return image
    width, height = size
    longer = max(image.size)
    shape = (max(1, round(longer * min(1.0, width / height))), max(1, round(longer * min(1.0, height / width))))
    return image if image.size == shape else image.resize(shape, Image.Resampling.BICUBIC)


def region_pixels(
    box: Sequence[int], grid_hw: tuple[int, int], size_wh: tuple[int, int], aspect: str = "square"
) -> Pixels:
    """Pixels (x0, y0, x1, y1), ends exclusive, that tokens (top, left, bottom, right) look at in a picture.

    `size_wh` is the picture's own width and height. Neighbours share their edge exactly, whatever the rounding. Where
    the model's picture is padded, pixels of the padding have no place in the picture: they lie below 0 or beyond it.
    Raises ValueError for tokens outside the grid.
    """
    top, left, bottom, right = box
    (rows, columns), (width, height) = grid_hw, size_wh
    if bottom > rows or right > columns:
        raise ValueError(f"region {tuple(box)} reaches beyond the grid of {rows}x{columns} tokens")
    x, y, spanned_w, spanned_h = 0, 0, width, height
    if check_aspect(aspect) == "pad":
        spanned_w = spanned_h = max(width, height)
        x, y = (spanned_w - width) // 2, (spanned_h - height) // 2
    return (
        round(left * spanned_w / columns) - x,
        round(top * spanned_h / rows) - y,
        round(right * spanned_w / columns) - x,
        round(bottom * spanned_h / rows) - y,
    )
