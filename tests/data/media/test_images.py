"""Pixel values: padding, size, normalisation."""

import numpy as np
import pytest
import torch
from PIL import Image

from cambrian_gaze.data.media.images import pad_to_square, preprocess_images

MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 1.0)


@pytest.mark.parametrize("size", [(10, 4), (4, 10), (7, 4), (5, 5)])
def test_padding_keeps_the_picture_in_the_middle(size):
    square = np.asarray(pad_to_square(Image.new("RGB", size, (1, 2, 3)), MEAN))
    side = max(size)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    inside = np.zeros((side, side), dtype=bool)
    inside[top : top + size[1], left : left + size[0]] = True
    assert square.shape == (side, side, 3)
    assert (square[inside] == (1, 2, 3)).all() and (square[~inside] == (51, 102, 153)).all()


def test_values_are_rescaled_and_normalised_per_channel():
    pixels = preprocess_images([Image.new("RGB", (3, 3), (255, 0, 51))], (3, 3), MEAN, STD)
    assert pixels.dtype == torch.float32 and pixels.shape == (1, 3, 3, 3)
    expected = torch.tensor([(1 - 0.2) / 0.5, (0 - 0.4) / 0.25, (0.2 - 0.6) / 1.0])
    torch.testing.assert_close(pixels[0, :, 1, 1], expected)


def test_padding_is_zero_after_normalisation_up_to_rounding():
    pixels = preprocess_images([Image.new("RGB", (8, 2), (255, 255, 255))], (8, 8), MEAN, STD)
    assert pixels[0, :, 0].abs().max() < 0.5 / 255 / min(STD)


def test_resizing_is_antialiased_bicubic():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    resized = pad_to_square(image, (0.5,) * 3).resize((8, 8), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(preprocess_images([image], (8, 8), (0.5,) * 3, (0.5,) * 3)[0], expected)


def test_order_and_other_modes():
    images = [Image.new("L", (4, 4), 255), Image.new("RGB", (6, 2))]
    pixels = preprocess_images(images, (4, 4), (0.5,) * 3, (0.5,) * 3)
    assert (pixels[0] == 1).all() and pixels[1].min() < 0
    assert preprocess_images([], (4, 4), MEAN, STD).shape == (0, 3, 4, 4)


def test_a_thin_strip_does_not_become_a_huge_square():
    pixels = preprocess_images([Image.new("RGB", (1_000_000, 1), (255, 255, 255))], (8, 8), (0.5,) * 3, (0.5,) * 3)
    assert pixels.shape == (1, 3, 8, 8)
