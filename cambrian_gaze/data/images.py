"""Pictures to pixel values: pad to square, resize, rescale, normalise. Used for training and by the processor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from cambrian_gaze.data.media import to_rgb

_GAP = 8
"""A side this many times longer than the target is box-averaged first: a thin strip must not become a huge square."""


def pad_to_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """The picture in the middle of a square filled with the colour `mean` (RGB, 0 to 1: the processor's own mean)."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), tuple(round(255 * value) for value in mean))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def preprocess_images(
    images: Sequence[Image.Image], size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """Pictures of any size → float32 [len(images), 3, H, W], with `size` = (H, W), value = (x / 255 - mean) / std.

    Pads to square with `mean`, then resizes with antialiased bicubic interpolation.
    """
    height, width = size
    pixels = np.empty((len(images), 3, height, width), dtype=np.float32)
    for place, picture in zip(pixels, images, strict=True):
        image = picture if picture.mode == "RGB" else to_rgb(picture)
        shrink = max(image.size) // (_GAP * max(size))
        square = pad_to_square(image.reduce(shrink) if shrink > 1 else image, mean)
        if square.size != (width, height):
            square = square.resize((width, height), Image.Resampling.BICUBIC)
        place[...] = np.asarray(square).transpose(2, 0, 1)
    scale = 1.0 / (255.0 * np.asarray(std, dtype=np.float64))
    shift = np.asarray(mean, dtype=np.float64) / np.asarray(std, dtype=np.float64)
    pixels *= scale.astype(np.float32)[:, None, None]
    pixels -= shift.astype(np.float32)[:, None, None]
    return torch.from_numpy(pixels)
