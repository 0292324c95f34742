"""Which traces and words a figure takes."""

import re

import pytest

from cambrian_gaze.viz.figures.picks import bare, by_kind, kind_of, pick, places_in, words_of
from tests.viz._traces import make_trace, noise
from tests.viz.figures._three import dense_trace, evicted_trace, gaze_trace


def test_the_kind_of_a_trace_is_told_from_what_it_holds() -> None:
    assert [kind_of(trace) for trace in (dense_trace(), gaze_trace(), evicted_trace([1]))] == [
        "dense",
        "gaze",
        "eviction",
    ]
    compressed = gaze_trace()
    compressed.model["policy"] = {"name": "quest"}
    assert kind_of(compressed) == "eviction"


def test_the_order_of_traces_does_not_matter() -> None:
    traces = [("d", dense_trace()), ("e", evicted_trace([1])), ("g", gaze_trace()), ("f", evicted_trace([2]))]
    wanted = {"gaze": (1, 1), "dense": (1, 1), "eviction": (1, 2)}
    for order in (traces, traces[::-1]):
        found = by_kind("x", order, wanted)
        assert [name for name, _ in found["dense"] + found["gaze"]] == ["d", "g"]
        assert {name for name, _ in found["eviction"]} == {"e", "f"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("g", "takes one dense trace and one gaze trace, but of these traces g is gaze; write the dense one with"),
        ("gdd", "of these traces d is dense, d is dense, g is gaze; leave out d"),
        ("ge", "g is gaze, e is eviction; write the dense one with `cambrian-gaze generate … --keep_ratio 1.0"),
        ("ge", "; leave out e"),
        ("", "but of these traces there is none; write the dense one"),
    ],
)
def test_other_traces_are_refused_with_what_to_do(names: str, said: str) -> None:
    known = {"g": gaze_trace(), "d": dense_trace(), "e": evicted_trace([1])}
    with pytest.raises(ValueError, match=re.escape(said)):
        by_kind("x", [(name, known[name]) for name in names], {"dense": (1, 1), "gaze": (1, 1)})


def test_traces_of_different_pictures_or_questions_are_refused() -> None:
    wanted = {"gaze": (2, 2)}
    other = gaze_trace(pictures=[[noise(90, 60)], [noise(30, 30)]])
    with pytest.raises(ValueError, match="a and b show different pictures"):
        by_kind("x", [("a", gaze_trace()), ("b", other)], wanted)
    with pytest.raises(ValueError, match="a and b answer different questions: 'What is this\\?' and 'Why'"):
        by_kind("x", [("a", gaze_trace()), ("b", gaze_trace(prompt="Why"))], wanted)


def test_words_are_whole_and_without_control_tokens() -> None:
    words = words_of(gaze_trace())
    assert [word.text for word in words] == ["A", "cat", "sits", "on", "the", "grass."]
    assert [word.tokens for word in words][2:3] == [(2, 3)] and words[-1].tokens == (6, 7)
    none = make_trace(tokens=list("abcdefghijklmnopq"))
    assert len(words_of(none)) == 17  # no spaces: each token stands alone


def test_words_by_letters_tokens_by_place_and_the_first_content_words() -> None:
    trace = gaze_trace(tokens=["The", " cat", " and", " the", " Cat", "!", "<end>"])
    assert [word.tokens for word in pick(trace, most=5)] == [(1,), (4, 5)]
    assert [word.tokens for word in pick(trace, most=1)] == [(1,)]
    assert [word.tokens for word in pick(trace, words=["CAT", "cat", "the"], most=1)] == [(1,), (4, 5), (0,)]
    assert [word.tokens for word in pick(trace, tokens=[5, 6], most=1)] == [(5,), (6,)]
    assert [word.text for word in pick(make_trace(tokens=["the", " of"]), most=3)] == ["the", "of"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"words": ["dog"]}, "the word 'dog' is not in the answer: 'A cat sits on the grass.'"),
        ({"words": ["cat", "cat"]}, "the word 'cat' is not so often in the answer"),
        ({"tokens": [9]}, "token 9: the trace has tokens 0 to 8"),
        ({"tokens": [1], "words": ["cat"]}, "words or tokens, not both"),
    ],
)
def test_words_that_there_are_not(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        pick(gaze_trace(), most=3, **options)


def test_an_answer_without_a_word() -> None:
    with pytest.raises(ValueError, match="no word to show"):
        pick(make_trace(tokens=["<end>"]), most=3)


def test_tokens_of_two_answers_are_matched_in_order() -> None:
    one, other = (make_trace(tokens=tokens) for tokens in (["a", " cat", " sits"], ["there", " a", " cat", " lies"]))
    assert places_in(one, other) == {0: 1, 1: 2}
    assert bare("“Cat’s!”") == "cat’s" and bare("…") == ""
