"""From tokens to pixels: padded and stretched, wide and tall pictures."""

import numpy as np
import pytest
from PIL import Image

from cambrian_gaze.data.media.aspect import check_aspect, model_view, pad_to_square, region_pixels, unstretched
from cambrian_gaze.data.media.images import preprocess_images

MEAN = (0.5, 0.5, 0.5)


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
