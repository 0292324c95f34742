"""How a picture of any shape becomes the model's square one, and where in the picture each token looks.

`pad`: the picture in the middle of a square of the mean colour, as LLaVA-1.5 and Cambrian-1. `square`: stretched, as
the published gaze models; regions of a wide picture are wide, and no token looks at padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cambrian_gaze.data.media.image_files import to_rgb

if TYPE_CHECKING:
    import torch

ASPECTS = ("pad", "square")
"""Known values of `image_aspect_ratio`, by LLaVA's names."""

Pixels = tuple[int, int, int, int]

_GAP = 8
"""A side this many times longer than the target is box-averaged first: a thin strip must not become a huge square."""


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


def preprocess_images(
    images: Sequence[Image.Image],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    aspect: str = "pad",
) -> torch.Tensor:
    """Pictures of any size → float32 [len(images), 3, H, W], with `size` = (H, W), value = (x / 255 - mean) / std.

    Pads to square with `mean` or, with `aspect` "square", stretches; antialiased bicubic interpolation.
    """
    import torch  # here: pictures of regions are drawn without it

    height, width = size
    pads = check_aspect(aspect) == "pad"
    pixels = np.empty((len(images), 3, height, width), dtype=np.float32)
    for place, picture in zip(pixels, images, strict=True):
        image = picture if picture.mode == "RGB" else to_rgb(picture)
        shrink = max(image.size) // (_GAP * max(size)) if pads else 1
        square = image.reduce(shrink) if shrink > 1 else image
        square = pad_to_square(square, mean) if pads else square
        if square.size != (width, height):
            square = square.resize((width, height), Image.Resampling.BICUBIC)
        place[...] = np.asarray(square).transpose(2, 0, 1)
    scale = 1.0 / (255.0 * np.asarray(std, dtype=np.float64))
    shift = np.asarray(mean, dtype=np.float64) / np.asarray(std, dtype=np.float64)
    pixels *= scale.astype(np.float32)[:, None, None]
    pixels -= shift.astype(np.float32)[:, None, None]
    return torch.from_numpy(pixels)


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
