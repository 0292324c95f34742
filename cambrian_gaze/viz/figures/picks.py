"""Which traces a figure is made of, and which words of their answers it shows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cambrian_gaze.viz.figures.sheet import Span, Text
from cambrian_gaze.viz.trace_data import TraceData

Named = tuple[str, TraceData]
"""A trace and what it is called, for instance its file."""
LONGEST = 12
"""Tokens of a word; a longer run has no spaces because its language has none, and its tokens stay alone."""
PLAIN = frozenset(
    "a an the this that these those it its he she they them his her their we you i is are was were be been has have "
    "had do does did will would can could of in on at to by for with from as into and or but not no there here".split()
)
"""English words that are passed over where nobody said which to show."""
QUESTION_LINES = 4
WRITE = {
    "dense": "`cambrian-gaze generate … --keep_ratio 1.0 --trace_file dense.safetensors`, or of a dense model",
    "gaze": "`cambrian-gaze generate … --trace_file gaze.safetensors` of a model with gaze",
    "eviction": "`cambrian-gaze generate … --policy snapkv budget=64 --trace_file evicted.safetensors`",
}
"""Kind of a trace → the command that writes one."""


@dataclass(frozen=True)
class Word:
    """Some tokens of an answer that stand for one word."""

    text: str
    tokens: tuple[int, ...]


def kind_of(trace: TraceData) -> str:
    """ "eviction" for an answer under a policy, "gaze" where heads chose some of several regions, else "dense"."""
    if trace.kept is not None or trace.model.get("policy"):
        return "eviction"
    return "gaze" if trace.chose.any() else "dense"


def by_kind(figure: str, traces: Sequence[Named], wanted: dict[str, tuple[int, int]]) -> dict[str, list[Named]]:
    """The traces of each kind, in the order given.

    Args:
        wanted: kind → the least and the largest number of traces of it.

    Raises: ValueError where there are other numbers, or pictures or questions differ.
    """
    found = {kind: [named for named in traces if kind_of(named[1]) == kind] for kind in WRITE}
    told = ", ".join(f"{name} is {kind}" for kind, some in found.items() for name, _ in some) or "there is none"
    needs = " and ".join(_counted(kind, least, most) for kind, (least, most) in wanted.items())
    remedies = []
    for kind, some in found.items():
        least, most = wanted.get(kind, (0, 0))
        if len(some) < least:
            remedies.append(f"; write the {kind} one with {WRITE[kind]}")
        elif len(some) > most:
            remedies.append(f"; leave out {', '.join(name for name, _ in some[most:])}")
    if remedies:
        raise ValueError(f"the {figure} figure takes {needs}, but of these traces {told}{''.join(remedies)}")
    first, *others = traces
    for name, trace in others:
        if [item.sha256 for item in trace.items] != [item.sha256 for item in first[1].items]:
            raise ValueError(f"{first[0]} and {name} show different pictures; ask both about the same, in one order")
        if trace.prompt.strip() != first[1].prompt.strip():
            raise ValueError(
                f"{first[0]} and {name} answer different questions: {first[1].prompt.strip()[:60]!r} and "
                f"{trace.prompt.strip()[:60]!r}; ask both the same"
            )
    return found


def _counted(kind: str, least: int, most: int) -> str:
    return f"one {kind} trace" if least == most == 1 else f"one or more {kind} traces"


def words_of(trace: TraceData) -> list[Word]:
    """The words of an answer that a reader sees, with their tokens: one begins where a space or a control token ends
    the one before."""
    runs: list[list[int]] = []
    fresh = True
    for place, (text, special) in enumerate(zip(trace.tokens, trace.special.tolist(), strict=True)):
        if special:
            fresh = True
            continue
        if fresh or text[:1].isspace():
            runs.append([])
        runs[-1].append(place)
        fresh = text[-1:].isspace()
    split = [part for run in runs for part in ([run] if len(run) <= LONGEST else [[place] for place in run])]
    words = [Word("".join(trace.tokens[place] for place in part).strip(), tuple(part)) for part in split]
    return [word for word in words if word.text]


def pick(
    trace: TraceData, *, words: Sequence[str] | None = None, tokens: Sequence[int] | None = None, most: int
) -> list[Word]:
    """The words of an answer that a figure shows.

    Args:
        words: by their letters, whatever the case and the punctuation around them; one named again is the next of its
            kind in the answer.
        tokens: by place, each alone.
        most: where neither is given, the first so many words but for the plain ones.

    Raises: ValueError for what the answer does not have.
    """
    if words and tokens:
        raise ValueError("name words or tokens, not both")
    known = words_of(trace)
    if tokens:
        if wrong := [place for place in tokens if not 0 <= place < len(trace.tokens)]:
            raise ValueError(f"token {wrong[0]}: the trace has tokens 0 to {len(trace.tokens) - 1}")
        return [Word(trace.tokens[place].strip() or f"token {place}", (place,)) for place in tokens]
    if words:
        found: list[Word] = []
        for name in words:
            same = [word for word in known if bare(word.text) == bare(name)]
            left = [word for word in same if word not in found]
            if not left:
                again = " so often" if same else ""
                raise ValueError(f"the word {name!r} is not{again} in the answer: {trace.answer!r}")
            found.append(left[0])
        return found
    content = [word for word in known if bare(word.text) and bare(word.text) not in PLAIN] or known
    if not content:
        raise ValueError("the answer has no word to show; name a token of it")
    return content[:most]


def lead(trace: TraceData, word: Word, most: int) -> str:
    """The last words before a word, at most `most`, for readers to find it in the answer."""
    visible = [trace.tokens[place] for place in range(word.tokens[0]) if not trace.special[place]]
    before = "".join(visible).split()
    return " ".join((["…"] if len(before) > most else []) + before[-most:])


def bare(word: str) -> str:
    """A word without case and the punctuation around it, to compare."""
    letters = [place for place, character in enumerate(word) if character.isalnum()]
    return word[letters[0] : letters[-1] + 1].casefold() if letters else ""


def places_in(trace: TraceData, other: TraceData) -> dict[int, int]:
    """Tokens of one answer → the same tokens of another, where the two agree (longest common runs, in order)."""
    texts = [[text.strip() for text in each.tokens] for each in (trace, other)]
    blocks = difflib.SequenceMatcher(None, *texts, autojunk=False).get_matching_blocks()
    return {block.a + n: block.b + n for block in blocks for n in range(block.size)}


def word_share(trace: TraceData, word: Word, layers: Sequence[int] | None) -> np.ndarray:
    """float64 [R]: share of the heads that chose each region, mean over a word's tokens."""
    return np.mean([trace.share(place, layers) for place in word.tokens], axis=0)


def of_layers(array: np.ndarray, layers: Sequence[int] | None, axis: int = 0) -> np.ndarray:
    """The layers of an array that were asked for; None: all. Raises ValueError for one that there is not."""
    if wrong := [layer for layer in layers or () if not 0 <= layer < array.shape[axis]]:
        raise ValueError(f"layer {wrong[0]}: a trace has layers 0 to {array.shape[axis] - 1}")
    return array if layers is None else array.take(list(layers), axis)


def question(trace: TraceData) -> Text:
    """The question, shortened where it is long."""
    return Text([Span("Question:", quiet=True), Span(trace.prompt)], lines=QUESTION_LINES)
