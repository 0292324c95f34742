"""Frames of a video with the regions of each word."""

import re

import numpy as np
import pytest

from cambrian_gaze.viz.figures import sheet_image, video_figure
from cambrian_gaze.viz.figures.sheet import Strip
from tests.viz._traces import noise
from tests.viz.figures._three import gaze_trace, said

FRAMES = [[noise(60, 40, s) for s in range(6)]]  # regions 9f to 9f + 8 lie in frame f


def looked(places: dict[int, list[int]]):
    """A video of six frames; each named token looks at two regions, the others at the first two."""
    trace = gaze_trace(pictures=FRAMES)
    trace.regions[:] = [0, 1]
    for token, regions in places.items():
        trace.regions[token] = regions
    return trace


def strips(sheet) -> list[Strip]:
    return [block for block in sheet.blocks if isinstance(block, Strip)]


def test_a_row_for_each_word_with_its_boxes_alone() -> None:
    trace = looked({1: [9, 30], 6: [50, 51], 7: [50, 51]})
    sheet = video_figure([("v", trace)], words=["cat", "grass"])
    assert [said(block) for block in sheet.blocks if not isinstance(block, Strip)] == [
        "Question: What is this?",
        "Answer: A cat sits on the grass.",
        "A “cat”",
        "… on the “grass.”",
    ]
    cat, grass = strips(sheet)
    assert cat.above == ["frame 2", "frame 4", "frame 6"] and not grass.above
    assert [shot.frame for shot in cat.shots] == [shot.frame for shot in grass.shots] == [1, 3, 5]
    assert [shot.boxes for shot in cat.shots] == [[trace.pixels[9]], [trace.pixels[30]], []]
    assert [shot.boxes for shot in grass.shots] == [[], [], [trace.pixels[50], trace.pixels[51]]]
    assert cat.below == ["50 %", "50 %", "0 %"] and grass.below == ["0 %", "0 %", "100 %"]
    assert sheet_image(sheet).width > 3 * 240


def test_only_frames_that_are_looked_at_each_words_first() -> None:
    trace = looked({1: [9, 30], 2: [20, 40], 3: [20, 40], 6: [50, 51], 7: [50, 51]})
    chosen = [shot.frame for shot in strips(video_figure([("v", trace)], most=1))[0].shots]
    assert chosen == [1, 2, 5]  # one for each of the three words, though fewer were asked for
    assert [shot.frame for shot in strips(video_figure([("v", trace)], most=9))[0].shots] == [1, 2, 3, 4, 5]
    assert [shot.frame for shot in strips(video_figure([("v", trace)], frames=[5, 0]))[0].shots] == [5, 0]


def test_top_regions_are_those_that_most_heads_chose() -> None:
    trace = looked({1: [9, 30]})
    trace.regions[1, 0, 0] = [9, 20]
    share = trace.share(1)
    assert share[9] > share[30] > share[20]
    for top, regions in ((1, {9}), (2, {9, 30}), (3, {9, 20, 30})):
        (strip,) = strips(video_figure([("v", trace)], tokens=[1], top=top))
        assert {box for shot in strip.shots for box in shot.boxes} == {trace.pixels[region] for region in regions}
        assert [shot.frame for shot in strip.shots] == sorted(region // 9 for region in regions)
    (one,) = strips(video_figure([("v", trace)], tokens=[1], layers=[1]))
    assert {shot.frame for shot in one.shots} == {1, 3}


def test_frames_are_told_by_their_time_where_it_is_known() -> None:
    trace = looked({1: [9, 30]})
    (strip,) = strips(video_figure([("v", trace)], tokens=[1], fps=2.0))
    assert strip.above == ["0.5 s", "1.5 s"]
    several = gaze_trace(pictures=[[noise(60, 60)], *FRAMES])
    several.regions[:] = [0, 20]
    (strip,) = strips(video_figure([("v", several)], tokens=[1], fps=1.0))
    assert strip.above == ["image 1", "video 2, 1 s"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"frames": [6]}, "frame 6: the trace has frames 0 to 5"),
        ({"fps": 0.0}, "fps must be above 0, not 0.0"),
        ({"words": ["dog"]}, "the word 'dog' is not in the answer"),
    ],
)
def test_what_there_is_not(options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        video_figure([("v", looked({}))], **options)


def test_other_traces_are_refused() -> None:
    with pytest.raises(ValueError, match="p is about no video; write a trace with `cambrian-gaze generate … --video"):
        video_figure([("p", gaze_trace())])
    with pytest.raises(ValueError, match="takes one gaze trace, but of these traces a is gaze, b is gaze"):
        video_figure([("a", looked({})), ("b", looked({}))])
    blind = looked({})
    blind.regions[1] = np.int32(-1)
    with pytest.raises(ValueError, match="v: no head chose a region for these words"):
        video_figure([("v", blind)], tokens=[1])
