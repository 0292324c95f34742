"""Dense attention beside gaze: how much each visual entry got for the same words (the paper's figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cambrian_gaze.data.media.aspect import Pixels
from cambrian_gaze.viz.draw import heaviest
from cambrian_gaze.viz.figure import unit_name
from cambrian_gaze.viz.figures.picks import (
    WRITE,
    Named,
    Word,
    by_kind,
    kind_of,
    lead,
    of_layers,
    pick,
    places_in,
    question,
    word_share,
    words_of,
)
from cambrian_gaze.viz.figures.sheet import Sheet, Shot, Span, Strip, Text
from cambrian_gaze.viz.trace_data import TraceData

SCALES = ("own", "common")
WORDS, LEAD = 3, 2
"""Shown where nobody said which, and words of the answer before each."""


def attention_figure(
    traces: Sequence[Named],
    *,
    words: Sequence[str] | None = None,
    tokens: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    scale: str = "own",
    top: int = 1,
) -> Sheet:
    """A row for each word: attention of dense over all visual entries, and of gaze inside the regions that were chosen.
    Below each stands in how many entries half of the attention to the pictures lies, and which weight has the full
    colour; what is not attended has none.

    Args:
        traces: (name, trace) of one dense answer and one of gaze, in any order, with attention weights.
        words, tokens: of gaze's answer, as in `picks.pick`; default: the first content words that both answers have.
        layers: mean over these alone; default: all.
        scale: "own": each picture's largest weight has the full colour; "common": the largest of all.
        top: regions of gaze that are outlined, those that most heads chose.

    Raises: ValueError for other traces, pictures or questions that differ, traces without weights, words that only one
    answer has.
    """
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} is none of {', '.join(SCALES)}")
    found = by_kind("attention", traces, {"dense": (1, 1), "gaze": (1, 1)})
    [dense], [gaze] = found["dense"], found["gaze"]
    trace = gaze[1]
    rows = [
        [_Part(named[1], word, _heat(named, word, layers)) for named, word in zip((dense, gaze), pair, strict=True)]
        for pair in _pairs(dense, gaze, words, tokens)
    ]
    units = [max(trace.units, key=row[1].within) for row in rows]
    largest = [max(part.largest(unit) for part in row) for row, unit in zip(rows, units, strict=True)]
    blocks: list[Text | Strip] = [question(trace), *_answers(dense[1], trace)]
    for row, unit in zip(rows, units, strict=True):
        word = row[1].word
        where = f" ({unit_name(trace, unit)})" if len(trace.units) > 1 else ""
        blocks.append(
            Text([Span(f"Attention for {lead(trace, word, LEAD)}", quiet=True), Span(f"“{word.text}”{where}")])
        )
        most = heaviest(word_share(trace, word, layers).tolist(), top)
        boxes = [trace.pixels[region] for region in most if region in trace.regions_of(*unit)]
        full = [max(largest) if scale == "common" else part.largest(unit) for part in row]
        shots = [part.shot(unit, one, outlined) for part, one, outlined in zip(row, full, ([], boxes), strict=True)]
        above = [f"{name}: {part.seen(layers)}" for name, part in zip(("dense", "gaze"), row, strict=True)]
        blocks.append(Strip(shots, above, [part.told(one) for part, one in zip(row, full, strict=True)]))
    return Sheet(blocks)


@dataclass(frozen=True)
class _Part:
    """One side of a row: a word of one answer and its attention."""

    trace: TraceData
    word: Word
    heat: np.ndarray
    """float64 [N]."""

    def within(self, unit: tuple[int, int]) -> float:
        """Attention to a picture or frame."""
        return float(self.heat[self.trace.entries(*unit)].sum())

    def largest(self, unit: tuple[int, int]) -> float:
        return float(self.heat[self.trace.entries(*unit)].max(initial=0))

    def shot(self, unit: tuple[int, int], full: float, boxes: Sequence[Pixels]) -> Shot:
        """The picture; `full` is the weight that has the full colour."""
        heat = self.heat[self.trace.entries(*unit)]
        weights = (heat / full if full > 0 else heat).tolist()
        places = list(zip(self.trace.entry_pixels(unit[0]), weights, strict=True))
        return Shot(self.trace.items[unit[0]], unit[1], wash=places, boxes=boxes)

    def seen(self, layers: Sequence[int] | None) -> str:
        """How many visual entries entered the softmax, as counted."""
        counted = of_layers(self.trace.attended[list(self.word.tokens), ..., 0], layers, axis=1).mean()
        return f"{float(counted):.4g} of {self.trace.num_visual} entries"

    def told(self, full: float) -> str:
        """In how many of all entries half of the visual attention lies, and what the colours mean."""
        number = half(self.heat)
        entry = "entry" if number == 1 else "entries"
        return f"half of the visual attention in {number} {entry}; full colour: a weight of {full:.2g}"


def half(heat: np.ndarray) -> int:
    """The fewest entries that hold half of the attention in `heat` [N]; 0 where there is none."""
    total = float(heat.sum())
    if not total > 0:
        return 0
    return int(np.searchsorted(np.cumsum(np.sort(heat)[::-1]), total / 2 - 1e-9 * total)) + 1


def _pairs(dense: Named, gaze: Named, words, tokens) -> list[tuple[Word, Word]]:
    """The same words in the dense answer and in gaze's."""
    same = places_in(gaze[1], dense[1])

    def of_dense(word: Word) -> Word | None:
        return Word(word.text, tuple(same[p] for p in word.tokens)) if all(p in same for p in word.tokens) else None

    asked = words or tokens
    picked = pick(gaze[1], words=words, tokens=tokens, most=WORDS if asked else len(words_of(gaze[1])))
    pairs = [(of_dense(word), word) for word in picked]
    lost = [word for other, word in pairs if other is None]
    both = [(other, word) for other, word in pairs if other is not None]
    if lost and (asked or not both):
        raise ValueError(
            f"{dense[0]} does not answer {lost[0].text!r} where {gaze[0]} does: {dense[1].answer!r} and "
            f"{gaze[1].answer!r}; name words that both have"
        )
    return both if asked else both[:WORDS]


def _heat(named: Named, word: Word, layers: Sequence[int] | None) -> np.ndarray:
    """float64 [N]: attention to each visual entry, mean over the word's tokens."""
    name, trace = named
    heats = [trace.heat(place, layers) for place in word.tokens]
    if all(heat is not None for heat in heats):
        return np.mean(heats, axis=0)
    if layers is not None and trace.heat(word.tokens[0]) is not None:
        raise ValueError(f"{name} has the mean of attention over layers alone; leave out layers")
    why = trace.missing.get("attention", "it was written by an older version")
    raise ValueError(f"{name} has no attention weights ({why}); write it again with {WRITE[kind_of(trace)]}")


def _answers(dense: TraceData, gaze: TraceData) -> list[Text]:
    if dense.answer == gaze.answer:
        return [Text([Span("Answer:", quiet=True), Span(gaze.answer)], lines=4)]
    pairs = (("Dense:", dense), ("Gaze:", gaze))
    return [Text([Span(name, quiet=True), Span(trace.answer)], lines=4) for name, trace in pairs]
