"""Dense attention beside gaze."""

import re

import numpy as np
import pytest

from cambrian_gaze.viz.figures import attention_figure, sheet_image
from cambrian_gaze.viz.figures.attention import half
from cambrian_gaze.viz.figures.sheet import Strip
from tests.viz._traces import noise, with_weights
from tests.viz.figures._three import dense_trace, evicted_trace, gaze_trace, said


def strips(sheet) -> list[Strip]:
    return [block for block in sheet.blocks if isinstance(block, Strip)]


def test_panels_have_the_weights_of_the_traces() -> None:
    dense, gaze = dense_trace(), gaze_trace()
    for order in ([("d", dense), ("g", gaze)], [("g", gaze), ("d", dense)]):
        (strip,) = strips(attention_figure(order, words=["sits"]))
        for shot, trace in zip(strip.shots, (dense, gaze), strict=True):
            heat = (trace.heat(2) + trace.heat(3)) / 2
            assert [place for place, _ in shot.wash] == trace.entry_pixels(0)
            assert [weight for _, weight in shot.wash] == pytest.approx((heat / heat.max()).tolist())
        assert strip.above == ["dense: 36 of 36 entries", "gaze: 8 of 36 entries"]
    share = (gaze.share(2) + gaze.share(3)) / 2
    outlined = [gaze.pixels[region] for region in np.flatnonzero(share > share.max() - 1e-6)]
    assert strip.shots[0].boxes == [] and strip.shots[1].boxes == outlined


def test_no_weight_no_colour() -> None:
    """Gaze's heat lies inside the regions that some head chose."""
    gaze = gaze_trace(layers=1, heads=1)
    (strip,) = strips(attention_figure([("d", dense_trace(layers=1, heads=1)), ("g", gaze)], tokens=[1]))
    chosen = np.zeros(36, dtype=bool)
    for region in gaze.regions[1, 0, 0]:
        _, _, _, top, left, bottom, right = gaze.boxes[region]
        chosen.reshape(6, 6)[top:bottom, left:right] = True
    assert [weight > 0 for _, weight in strip.shots[1].wash] == chosen.tolist()


def test_concentration_is_counted() -> None:
    assert half(np.array([1.0, 5, 1, 1, 1])) == 1 and half(np.ones(8)) == 4 and half(np.ones(9)) == 5
    assert half(np.zeros(4)) == 0
    dense, gaze = dense_trace(), gaze_trace()
    gaze.attention[:] = 0
    gaze.attention[:, :, [3, 4, 5]] = [0.25, 0.125, 0.0625]
    dense.attention[:] = 0.0078125
    dense.attention[:, :, 7] = 0.0625
    strip = strips(attention_figure([("d", dense), ("g", gaze)]))[0]
    assert strip.below == [
        "half of the visual attention in 15 entries; full colour: a weight of 0.062",
        "half of the visual attention in 1 entry; full colour: a weight of 0.25",
    ]
    common = strips(attention_figure([("d", dense), ("g", gaze)], scale="common"))[0]
    assert all("full colour: a weight of 0.25" in note for note in common.below)
    assert max(weight for _, weight in common.shots[0].wash) == 0.25
    one = strips(attention_figure([("d", dense), ("g", gaze)], layers=[1]))[0]
    assert one.below == strip.below


def test_the_same_words_stand_beside_each_other_though_answers_differ() -> None:
    dense = dense_trace(tokens=["See", ",", " a", " cat", " lies", " on", " grass", ".", "<end>"])
    dense.attended[3, ..., 0] = 35
    sheet = attention_figure([("d", dense), ("g", gaze_trace())])
    texts = [said(block) for block in sheet.blocks if not isinstance(block, Strip)]
    assert texts == [
        "Question: What is this?",
        "Dense: See, a cat lies on grass.",
        "Gaze: A cat sits on the grass.",
        "Attention for A “cat”",
        "Attention for … on the “grass.”",
    ]
    assert strips(sheet)[0].above[0] == "dense: 35 of 36 entries"
    with pytest.raises(ValueError, match="d does not answer 'sits' where g does: 'See, a cat lies"):
        attention_figure([("d", dense), ("g", gaze_trace())], words=["sits"])


def test_of_several_frames_the_one_with_most_of_gazes_attention() -> None:
    frames = [[noise(60, 40, s) for s in range(3)]]
    dense, gaze = dense_trace(pictures=frames), gaze_trace(pictures=frames)
    gaze.attention[1] = 0.001
    gaze.attention[1][:, gaze.entries(0, 2)] = 0.01
    sheet = attention_figure([("d", dense), ("g", gaze)], tokens=[1])
    assert [shot.frame for shot in strips(sheet)[0].shots] == [2, 2]
    assert said(sheet.blocks[-2]) == "Attention for A “cat” (frame 3)"
    assert sheet_image(sheet).width > 480


def test_traces_without_weights_are_refused_with_the_remedy() -> None:
    bare = dense_trace()
    bare.attention = None
    with pytest.raises(
        ValueError, match=r"d has no attention weights \(it was written .* again with `cambrian-gaze generate"
    ):
        attention_figure([("d", bare), ("g", gaze_trace())])
    mean = with_weights(gaze_trace())
    mean.attention = mean.attention.mean(1, keepdims=True)
    assert attention_figure([("d", dense_trace()), ("g", mean)])
    with pytest.raises(ValueError, match="g has the mean of attention over layers alone; leave out layers"):
        attention_figure([("d", dense_trace()), ("g", mean)], layers=[0])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"scale": "log"}, "scale 'log' is none of own, common"),
        ({"tokens": [20]}, "token 20"),
        ({"layers": [2]}, "layer 2: the trace has layers 0 to 1"),
    ],
)
def test_what_there_is_not(options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        attention_figure([("d", dense_trace()), ("g", gaze_trace())], **options)
    with pytest.raises(ValueError, match="takes one dense trace and one gaze trace"):
        attention_figure([("d", dense_trace()), ("e", evicted_trace([1]))])
