"""Pictures to pixel values: made square, resized, rescaled, normalised. For training and for the processor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from cambrian_gaze.data.media.aspect import check_aspect, pad_to_square
from cambrian_gaze.data.media.image_files import to_rgb

__all__ = ["pad_to_square", "preprocess_images"]

_GAP = 8
"""A side this many times longer than the target is box-averaged first: a thin strip must not become a huge square."""


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
