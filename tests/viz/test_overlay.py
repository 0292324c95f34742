import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.models.trace import GazeTrace, boxes_of_row
from cambrian_gaze.viz import canvas
from cambrian_gaze.viz.draw import MAX_ALPHA, draw_gaze
from cambrian_gaze.viz.overlay import PanelLook, arrange, gaze_strip, share_text, token_panels
from cambrian_gaze.viz.regions import as_boxes, pixel_box
from tests.viz._stand_in import StandIn, tiling, trace_of


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    # Blue stays high, so that the wash, whose blue is low, changes every pixel that it touches.
    pixels = np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8)
    pixels[..., 2] = 250  # the blue of the asked corners is 255
    return Image.fromarray(pixels)


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    return (np.asarray(before.convert("RGB")) != np.asarray(after)).any(-1)


@given(
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    region_h=st.integers(1, 6),
    region_w=st.integers(1, 6),
    pixels=st.integers(13, 90),
    data=st.data(),
)
def test_colour_lies_exactly_in_the_chosen_regions(height, width, region_h, region_w, pixels, data):
    boxes = tiling(height, width, (region_h, region_w))
    chosen = data.draw(st.sets(st.integers(0, len(boxes) - 1), max_size=3))
    asked = data.draw(st.sampled_from(sorted(chosen))) if chosen else None
    weights = [0.5 if place in chosen else 0.0 for place in range(len(boxes))]
    image = noise(pixels, pixels + 5)
    drawn = draw_gaze(image, boxes, weights, side=pixels + 5, grid=False, top=2, asked=asked)
    expected = np.zeros((pixels + 5, pixels), dtype=bool)
    for place in chosen:
        x0, y0, x1, y1 = pixel_box(as_boxes(boxes)[place], (height, width), image.size)
        expected[y0:y1, x0:x1] = True
    assert (changed(image, drawn) == expected).all()


def test_the_wash_is_as_opaque_as_the_weight():
    weights = [0.0, 0.25, 0.5, 1.0]
    black = Image.new("RGB", (64, 64))
    drawn = np.asarray(draw_gaze(black, tiling(4, 4, (2, 2)), weights, side=64, grid=False, top=0))
    centres = [drawn[16, 16], drawn[16, 48], drawn[48, 16], drawn[48, 48]]
    assert tuple(centres[0]) == (0, 0, 0)
    expected = [[weight * MAX_ALPHA * part for part in canvas.GAZE] for weight in weights]
    np.testing.assert_allclose(np.array(centres, dtype=float), expected, atol=1.5)


def test_only_the_heaviest_regions_have_an_outline():
    black = Image.new("RGB", (64, 64))
    drawn = np.asarray(draw_gaze(black, tiling(4, 4, (2, 2)), [0.2, 0.9, 0.0, 0.4], side=64, top=1))
    red = (drawn == canvas.TOP).all(-1)
    assert red[0, 32:].all() and red[0:32, 63].all() and not red[:, :32].any() and not red[32:].any()


def test_the_asked_region_has_corners_and_nothing_else_does():
    image = noise(64, 64)
    drawn = np.asarray(draw_gaze(image, tiling(4, 4, (2, 2)), [0.0] * 4, side=64, grid=False, asked=2))
    blue = (drawn == canvas.ASKED).all(-1)
    assert blue[32, 0] and blue[63, 31] and blue[32, 31] and blue[63, 0] and not blue[48, 16]
    assert not changed(image, Image.fromarray(drawn))[:32].any()


def test_grid_lines_touch_only_region_borders():
    image = noise(64, 64)
    lines = changed(image, draw_gaze(image, tiling(4, 4, (2, 2)), [0.0] * 4, side=64))
    expected = np.zeros((64, 64), dtype=bool)
    expected[32, :] = expected[:, 32] = True
    assert not lines[~expected].any() and lines[expected].mean() > 0.9


def test_small_pictures_are_enlarged_with_hard_pixels_and_large_ones_reduced():
    tiny = noise(8, 8)
    large = canvas.fit(tiny, 50)
    assert large.size == (48, 48)
    assert (np.asarray(large)[::6, ::6] == np.asarray(tiny)).all()
    assert (np.asarray(large) == np.asarray(tiny).repeat(6, 0).repeat(6, 1)).all()
    assert canvas.fit(noise(300, 200), 100).size == (100, 67)


def test_bad_weights_are_errors():
    boxes = tiling(4, 4, (2, 2))
    with pytest.raises(ValueError, match="4 regions, but 2 weights"):
        draw_gaze(noise(8, 8), boxes, [0.1, 0.2])
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        draw_gaze(noise(8, 8), boxes, [0.1, 0.2, 3.0, 0.0])
    with pytest.raises(ValueError, match="asked region 4"):
        draw_gaze(noise(8, 8), boxes, [0.0] * 4, asked=4)


def test_panels_carry_shares_verdicts_and_the_right_pictures():
    boxes = tiling(8, 8, (2, 2))
    trace = trace_of([[5, 1], [9, -1], [0, 1]], boxes)
    trace.regions[0, 0, 0, 0, 0] = 6  # one of the four pairs looks elsewhere
    image = noise(64, 64)
    panels = token_panels(
        trace,
        [" B2", " 7", "."],
        image,
        look=PanelLook(side=64),
        select=[0, 1],
        asked=[5, 9, None],
        correct=[None, True, None],
    )
    assert [panel.token for panel in panels] == [" B2", " 7"]
    assert [panel.asked_share for panel in panels] == [0.75, 1.0]
    assert [panel.share for panel in panels] == [1.0, 1.0]
    assert [panel.correct for panel in panels] == [None, True]
    seen = changed(image, panels[1].image)[1:, 1:].reshape(-1)
    assert seen.any()
    inside = np.zeros((64, 64), dtype=bool)
    inside[32:48, 16:32] = True
    lines = np.zeros((64, 64), dtype=bool)
    lines[16::16, :] = lines[:, 16::16] = True
    difference = changed(image, panels[1].image)
    assert difference[inside].all() and not difference[~inside & ~lines].any()


def test_a_video_shows_only_frames_with_weight():
    boxes = tiling(4, 4, (2, 2), frames=5)
    trace = trace_of([[4 * 1, 4 * 3 + 2], [4 * 2, -1]], boxes)
    frames = [noise(32, 32, seed) for seed in range(5)]
    two, one = token_panels(trace, ["a", "b"], [frames], look=PanelLook(side=32))
    assert two.image.width == 2 * 32 + 6 and one.image.width == 32
    left, right = two.image.crop((0, 0, 32, 32)), two.image.crop((38, 0, 70, 32))
    assert not changed(frames[1], left)[17:, 17:].any() and changed(frames[1], left)[1:15, 1:15].all()
    assert not changed(frames[3], right)[:15, 17:].any() and changed(frames[3], right)[18:, 1:15].all()


def test_a_region_over_several_frames_washes_each():
    boxes = tiling(4, 4, (4, 4), frames=3, per=2)  # frames 0-1, and a ragged tail of one
    panels = token_panels(
        trace_of([[0], [1]], boxes), ["a", "b"], [[noise(32, 32, s) for s in range(3)]], look=PanelLook(side=32)
    )
    assert [panel.image.width for panel in panels] == [2 * 32 + 6, 32]


def test_several_images_of_different_grids():
    boxes = tiling(4, 4, (2, 2)) + tiling(3, 6, (2, 2), item=1)
    trace = trace_of([[0, 4], [9, -1]], boxes)
    panels = token_panels(trace, ["a", "b"], [noise(40, 40), noise(60, 30)], look=PanelLook(side=60))
    assert [panel.image.width for panel in panels] == [40 + 60 + 6, 60]


def test_the_heaviest_frames_are_kept_and_the_rest_is_counted():
    boxes = tiling(2, 2, (2, 2), frames=6)
    trace = trace_of([[0, 1, 2, 3]], boxes)
    trace.regions[0, 0, 0, 0, 0] = 5
    (panel,) = token_panels(
        trace, ["a"], [[noise(20, 20, seed) for seed in range(6)]], look=PanelLook(side=20, max_units=2)
    )
    assert panel.image.width == 2 * 20 + 6 + 60


def test_pictures_that_do_not_match_the_trace_are_errors():
    trace = trace_of([[0]], tiling(4, 4, (2, 2), frames=3))
    with pytest.raises(ValueError, match="3 frames in the trace, but 2 pictures"):
        token_panels(trace, ["a"], [[noise(8, 8)] * 2])
    with pytest.raises(ValueError, match="1 images or videos, but 2 were given"):
        token_panels(trace, ["a"], [noise(8, 8)] * 2)
    with pytest.raises(ValueError, match="2 tokens, but the trace has 1"):
        token_panels(trace, ["a", "b"], [[noise(8, 8)] * 3])
    with pytest.raises(ValueError, match="1 tokens, but 2 entries in asked"):
        token_panels(trace, ["a"], [[noise(8, 8)] * 3], asked=[0, 1])


def test_a_strip_wraps_into_rows_and_takes_any_token():
    tokens = [" A1", "\n", "", "中文 a rather long token that must be cut", "🙂", "<b>"]
    trace = trace_of([[place] for place in range(6)], tiling(8, 8, (2, 2)))
    image = noise(64, 64)
    wide, tall = (
        gaze_strip(trace, tokens, image, look=PanelLook(side=64), columns=columns, key=False) for columns in (6, 2)
    )
    assert wide.width > tall.width and tall.height > wide.height
    assert gaze_strip(trace, tokens, image, look=PanelLook(side=64), title="Title", asked=[0] * 6).height > wide.height
    assert arrange([]).size[0] > 0
    with pytest.raises(ValueError, match="columns"):
        gaze_strip(trace, tokens, image, columns=0)


def test_a_video_strip_has_one_row_per_token():
    frames = [noise(32, 32, seed) for seed in range(4)]
    trace = trace_of([[0, 5], [9, 13]], tiling(4, 4, (2, 2), frames=4))
    one, two = (
        gaze_strip(trace, ["a", "b"], [frames], look=PanelLook(side=32), key=False, select=range(n)) for n in (1, 2)
    )
    assert two.height > one.height and two.width == one.width


def test_a_token_without_a_choice_is_drawn_without_colour():
    boxes = tiling(4, 4, (2, 2))
    (panel,) = token_panels(trace_of([[-1]], boxes), ["a"], noise(64, 64), look=PanelLook(side=64))
    assert panel.share == 0.0
    (panel,) = token_panels(
        trace_of([[-1]], tiling(4, 4, (2, 2), frames=2)), ["a"], [[noise(8, 8)] * 2], look=PanelLook(side=8)
    )
    assert panel.image.width > 0


def test_empty_places_of_a_padded_region_table_are_left_out():
    boxes = [*tiling(4, 4, (2, 2)), (0, 0, 0, 0, 0, 0, 0)]
    trace = StandIn(trace_of([[3]], boxes).regions, boxes)
    assert token_panels(trace, ["a"], noise(16, 16), look=PanelLook(side=16))[0].share == 1.0


def test_token_labels_can_be_read():
    face = canvas.font(14)
    assert canvas.token_label(" B3", face) == "B3"
    assert canvas.token_label("\n", face) == "\\n"
    assert canvas.token_label("  ") == "(space)"
    assert canvas.token_label("") == "(empty)"
    assert canvas.token_label("中", face) == "\\u4e2d"
    assert canvas.shorten("a long token", face, 30).endswith("...")


def test_a_sample_without_pictures_or_without_routing_has_empty_panels():
    assert token_panels(trace_of([[-1]], []), ["a"], [])[0].share == 0.0
    dense = StandIn(torch.zeros(1, 1, 2, 2, 0, dtype=torch.int64), tiling(4, 4, (2, 2)))
    assert token_panels(dense, ["a"], noise(16, 16))[0].share == 0.0
    assert gaze_strip(trace_of([[-1]], []), ["a"], []).height > 0


def test_the_trace_of_generate_is_understood():
    config = GazeConfig(image=RegionBudget(region_size=(1, 2, 2), top_k=1), video=RegionBudget((2, 3, 3), top_k=1))
    grids = [(1, 4, 5), (3, 4, 4)]  # a ragged image, and a video whose last region spans one frame
    boxes = boxes_of_row(grids, [1, 2], config)
    regions = torch.tensor([0, 6, 9]).view(1, 3, 1, 1, 1).expand(1, 3, 2, 2, 1)
    nothing = torch.zeros(1, 3, 2, 2, dtype=torch.int64)
    trace = GazeTrace(regions, nothing, nothing, nothing, torch.tensor(grids), [boxes])
    panels = token_panels(trace, ["a", "b", "c"], [noise(50, 40), [noise(40, 40)] * 3], look=PanelLook(side=50))
    assert [panel.image.width for panel in panels] == [50, 2 * 40 + 6, 2 * 40 + 6]


def test_equal_regions_are_outlined_alike():
    weights = [0.5, 0.0, 0.5, 0.25]
    drawn = np.asarray(draw_gaze(Image.new("RGB", (64, 64)), tiling(4, 4, (2, 2)), weights, side=64, top=1))
    red = (drawn == canvas.TOP).all(-1)
    assert red[0, 0] and red[63, 0] and not red[:, 32:].any()


def test_the_words_below_a_panel():
    boxes = tiling(4, 4, (2, 2))
    several, single = trace_of([[1]], boxes), trace_of([[1]], boxes, layers=1, heads=1)

    def words(trace, asked):
        return share_text(token_panels(trace, ["a"], noise(16, 16), asked=[asked])[0])

    assert words(several, 1) == "100% on asked" and words(several, None) == "100% on top region"
    assert words(single, 1) == "looked at asked" and words(single, 0) == "looked elsewhere"
    assert words(trace_of([[-1]], boxes), 0) == "looked nowhere"
