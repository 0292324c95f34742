"""Eviction against gaze, word by word."""

import re

import pytest

from cambrian_gaze.viz.figures import eviction_figure, sheet_image
from cambrian_gaze.viz.figures.eviction import agreeing
from cambrian_gaze.viz.figures.sheet import Strip, Text
from cambrian_gaze.viz.render import EVICTED
from tests.viz._traces import noise
from tests.viz.figures._three import dense_trace, evicted_trace, gaze_trace, said


def parts(sheet) -> tuple[list[str], list[Strip]]:
    texts = [said(block) for block in sheet.blocks if isinstance(block, Text)]
    return texts, [block for block in sheet.blocks if isinstance(block, Strip)]


def test_a_row_for_gaze_and_one_for_each_policy() -> None:
    gaze, one, other = gaze_trace(), evicted_trace([0, 8]), evicted_trace([5], name="hermes")
    texts, (first, *rows) = parts(eviction_figure([("a", one), ("g", gaze), ("b", other)], words=["cat", "sits"]))
    assert texts == [
        "Question: What is this?",
        "gaze looks at 8 of 36 visual tokens",
        "answers: A cat sits on the grass.",
        "snapkv keeps 2 of 36 visual tokens, for all words",
        "answers: A cat sits on the grass.",
        "hermes keeps 1 of 36 visual tokens, for all words",
        "answers: A cat sits on the grass.",
    ]
    assert first.above == ["A “cat”", "… cat “sits”"]
    for shot, share in zip(first.shots, (gaze.share(1), (gaze.share(2) + gaze.share(3)) / 2), strict=True):
        assert shot.wash == [(gaze.pixels[region], share[region]) for region in range(9)]
        assert shot.boxes == [gaze.pixels[region] for region in range(9) if share[region] > share.max() - 1e-6]
    for row, trace, kept in zip(rows, (one, other), ({0, 8}, {5}), strict=True):
        assert row.shots[0] == row.shots[1]  # whatever the word
        assert [place for place, _ in row.shots[0].light] == trace.entry_pixels(0)
        held = [light for _, light in row.shots[0].light]
        assert row.shots[0].wash == [(place, n in kept) for n, (place, _) in enumerate(row.shots[0].light)]
        assert held == pytest.approx([1 if place in kept else EVICTED / 255 for place in range(36)])


def test_layers_are_counted_alone() -> None:
    trace = evicted_trace([3])
    trace.kept[1, 4] = 1.0
    gaze = gaze_trace()
    gaze.attended[:, 1, :, 0] = 20
    texts, (first, row) = parts(eviction_figure([("e", trace), ("g", gaze)], tokens=[1], layers=[1]))
    assert "looks at 20 of 36" in texts[1] and "keeps 2 of 36" in texts[3]
    assert [n for n, (_, light) in enumerate(row.shots[0].light) if light == 1] == [3, 4]
    assert [weight for _, weight in first.shots[0].wash] == gaze.share(1, [1]).tolist()


def test_wrong_words_are_marked() -> None:
    evicted = evicted_trace([1], tokens=["A", " dog", " s", "its", " on", " THE", " grass", "!", "<end>"])
    sheet = eviction_figure([("e", evicted), ("g", gaze_trace())], truth="A cat sits on the green grass.")
    texts, _ = parts(sheet)
    assert texts[1].startswith("Reference: A cat sits on the green grass. (words of an answer")
    answers = [block for block in sheet.blocks if isinstance(block, Text) and said(block).startswith("answers:")]
    wrong = [[span.text for span in answer.spans if span.wrong] for answer in answers]
    assert wrong == [[], ["dog"]]
    assert [answer.spans[-1].text for answer in answers] == [
        "(6 of the reference's 7 words)",
        "(5 of the reference's 7 words)",
    ]
    assert agreeing("the cat , the Dog".split(), "Dog the cat".split()) == {0, 1}


def test_a_frame_for_each_word_and_the_policys_same_frame_below() -> None:
    frames = [[noise(60, 40, s) for s in range(3)]]
    gaze = gaze_trace(pictures=frames)
    gaze.regions[1] = [[[9, 10]]]  # of frame 2
    gaze.regions[6:8] = [[[0, 20]]]
    gaze.regions[6:8, 0] = 19  # of frame 3
    _, (first, row) = parts(
        eviction_figure([("e", evicted_trace([40], pictures=frames)), ("g", gaze)], words=["cat", "grass"])
    )
    assert first.above == ["A “cat” (frame 2)", "… the “grass.” (frame 3)"]
    assert [shot.frame for shot in row.shots] == [1, 2]
    assert [[n for n, (_, light) in enumerate(shot.light) if light == 1] for shot in row.shots] == [[4], []]
    assert sheet_image(eviction_figure([("e", evicted_trace([40], pictures=frames)), ("g", gaze)])).width > 240


def test_other_traces_are_refused() -> None:
    shallow = evicted_trace([1])
    shallow.kept = shallow.kept[:1]
    with pytest.raises(ValueError, match="layer 1: a trace has layers 0 to 0"):
        eviction_figure([("e", shallow), ("g", gaze_trace())], layers=[1])
    nothing = gaze_trace()
    nothing.model["policy"] = {"name": "avgpool2"}
    with pytest.raises(ValueError, match=re.escape("q does not say what was kept (its policy evicts nothing)")):
        eviction_figure([("q", nothing), ("g", gaze_trace())])
    with pytest.raises(ValueError, match="takes one gaze trace and one or more eviction traces, .* --policy snapkv"):
        eviction_figure([("d", dense_trace()), ("g", gaze_trace())])
