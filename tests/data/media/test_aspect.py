"""Pictures to pixel values (padding, size, normalisation), and from tokens to pixels: padded and stretched."""

import numpy as np
import pytest
import torch
from PIL import Image

from cambrian_gaze.data.media.aspect import (
    check_aspect,
    model_view,
    pad_to_square,
    preprocess_images,
    region_pixels,
    unstretched,
)

MEAN = (0.5, 0.5, 0.5)
UNEVEN_MEAN, UNEVEN_STD = (0.2, 0.4, 0.6), (0.5, 0.25, 1.0)


@pytest.mark.parametrize("aspect", ["pad", "square"])
@pytest.mark.parametrize("size", [(120, 60), (60, 120), (64, 64), (90, 61), (61, 90), (7, 400)])
def test_a_lit_region_of_the_picture_lights_its_token_and_no_other(size, aspect):
    """The model's own pixels are the judge: what `region_pixels` names is what the token's patch holds."""
    grid, side = (4, 6), 96
    for top, left in ((0, 0), (1, 2), (3, 5), (2, 4)):
        x0, y0, x1, y1 = region_pixels((top, left, top + 1, left + 1), grid, size, aspect)
        x0, y0, x1, y1 = max(0, x0), max(0, y0), min(size[0], x1), min(size[1], y1)
        image = Image.new("RGB", size, (0, 0, 0))
        if x1 > x0 and y1 > y0:
            image.paste((255, 255, 255), (x0, y0, x1, y1))
        pixels = preprocess_images([image], (side, side), (0.0,) * 3, (1.0,) * 3, aspect)[0, 0].numpy()
        tokens = pixels.reshape(4, side // 4, 6, side // 6).mean((1, 3))
        lit = (x1 - x0) * (y1 - y0)
        if aspect == "square" and min(size) >= 60:
            assert tokens[top, left] > 0.85 and lit > 0
        if lit > 30:
            assert np.unravel_index(tokens.argmax(), tokens.shape) == (top, left)


@pytest.mark.parametrize("aspect", ["pad", "square"])
@pytest.mark.parametrize("size", [(101, 37), (37, 101), (5, 5)])
def test_regions_tile_what_the_grid_spans(size, aspect):
    whole = region_pixels((0, 0, 3, 7), (3, 7), size, aspect)
    view = model_view(Image.new("RGB", size), aspect, MEAN)
    assert (whole[2] - whole[0], whole[3] - whole[1]) == view.size
    edges = [region_pixels((0, left, 1, left + 1), (3, 7), size, aspect) for left in range(7)]
    assert all(one[2] == other[0] for one, other in zip(edges, edges[1:], strict=False))
    assert (edges[0][0], edges[-1][2]) == (whole[0], whole[2])


def test_regions_of_a_wide_stretched_picture_are_wide_and_of_a_padded_one_square():
    stretched = region_pixels((0, 0, 1, 1), (4, 4), (400, 100), "square")
    assert stretched == (0, 0, 100, 25)
    padded = region_pixels((1, 0, 2, 1), (4, 4), (400, 100), "pad")
    assert padded == (0, -50, 100, 50)  # the padding above the picture has 150 rows
    with pytest.raises(ValueError, match="beyond the grid of 4x4"):
        region_pixels((0, 0, 5, 1), (4, 4), (8, 8))


def test_the_model_s_picture_gets_its_shape_back():
    square = Image.new("RGB", (96, 96))
    assert unstretched(square, (400, 100), "square").size == (96, 24)
    assert unstretched(square, (100, 400), "square").size == (24, 96)
    assert unstretched(square, (100, 400), "pad") is square
    assert unstretched(square, (1000, 1), "square").size == (96, 1)


def test_stretching_is_one_resize_and_padding_has_upstream_s_colour():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)) / 255
    got = preprocess_images([image], (16, 16), (0.0,) * 3, (1.0,) * 3, "square")[0].permute(1, 2, 0).numpy()
    assert np.abs(got - expected).max() < 1e-6
    assert pad_to_square(image, MEAN).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize(
    ("value", "reason"),
    [("anyres", "tiles beside a base view"), ("anyres_max_9", "tiles"), ("highres", "tiles"), ("Pad", "is unknown")],
)
def test_other_values_are_refused_with_the_reason(value, reason):
    with pytest.raises(ValueError, match=rf"{value}.*{reason}.*use one of pad, square"):
        check_aspect(value)
    with pytest.raises(ValueError, match=reason):
        preprocess_images([], (8, 8), MEAN, MEAN, value)


@pytest.mark.parametrize("size", [(10, 4), (4, 10), (7, 4), (5, 5)])
def test_padding_keeps_the_picture_in_the_middle(size):
    square = np.asarray(pad_to_square(Image.new("RGB", size, (1, 2, 3)), UNEVEN_MEAN))
    side = max(size)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    inside = np.zeros((side, side), dtype=bool)
    inside[top : top + size[1], left : left + size[0]] = True
    assert square.shape == (side, side, 3)
    assert (square[inside] == (1, 2, 3)).all() and (square[~inside] == (51, 102, 153)).all()


def test_values_are_rescaled_and_normalised_per_channel():
    pixels = preprocess_images([Image.new("RGB", (3, 3), (255, 0, 51))], (3, 3), UNEVEN_MEAN, UNEVEN_STD)
    assert pixels.dtype == torch.float32 and pixels.shape == (1, 3, 3, 3)
    expected = torch.tensor([(1 - 0.2) / 0.5, (0 - 0.4) / 0.25, (0.2 - 0.6) / 1.0])
    torch.testing.assert_close(pixels[0, :, 1, 1], expected)


def test_padding_is_zero_after_normalisation_up_to_rounding():
    pixels = preprocess_images([Image.new("RGB", (8, 2), (255, 255, 255))], (8, 8), UNEVEN_MEAN, UNEVEN_STD)
    assert pixels[0, :, 0].abs().max() < 0.5 / 255 / min(UNEVEN_STD)


def test_resizing_is_antialiased_bicubic():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    resized = pad_to_square(image, (0.5,) * 3).resize((8, 8), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(preprocess_images([image], (8, 8), (0.5,) * 3, (0.5,) * 3)[0], expected)


def test_order_and_other_modes():
    images = [Image.new("L", (4, 4), 255), Image.new("RGB", (6, 2))]
    pixels = preprocess_images(images, (4, 4), (0.5,) * 3, (0.5,) * 3)
    assert (pixels[0] == 1).all() and pixels[1].min() < 0
    assert preprocess_images([], (4, 4), UNEVEN_MEAN, UNEVEN_STD).shape == (0, 3, 4, 4)


def test_a_thin_strip_does_not_become_a_huge_square():
    pixels = preprocess_images([Image.new("RGB", (1_000_000, 1), (255, 255, 255))], (8, 8), (0.5,) * 3, (0.5,) * 3)
    assert pixels.shape == (1, 3, 8, 8)
