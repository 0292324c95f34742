"""Dense attention beside gaze: how much each visual entry got for the same words (the paper's figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cambrian_gaze.viz.draw import heaviest
from cambrian_gaze.viz.figure import unit_name
from cambrian_gaze.viz.figures.picks import Named, Word, by_kind, pick, places_in, question, word_share, words_of
from cambrian_gaze.viz.figures.sheet import Sheet, Shot, Span, Strip, Text
from cambrian_gaze.viz.render import entries, entry_pixels
from cambrian_gaze.viz.trace_data import TraceData

SCALES = ("own", "common")
WORDS = 3
"""Shown where nobody said which."""


def attention_figure(
    traces: Sequence[Named],
    *,
    words: Sequence[str] | None = None,
    tokens: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    scale: str = "own",
    top: int = 1,
    side: int | None = None,
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
    (_, dense), (_, gaze) = found["dense"][0], found["gaze"][0]
    pairs = _pairs(found["dense"][0], found["gaze"][0], words, tokens)
    heats = [
        tuple(_heat(named, word, layers) for named, word in zip((found["dense"][0], found["gaze"][0]), pair, strict=True))
        for pair in pairs
    ]
    units = [max(gaze.units, key=lambda unit: own[entries(gaze, unit)].sum()) for _, own in heats]
    shown = [[heat[entries(t, unit)] for t, heat in zip((dense, gaze), both, strict=True)] for both, unit in zip(heats, units, strict=True)]
    largest = max(float(part.max(initial=0)) for both in shown for part in both)
    blocks: list[Text | Strip] = [question(gaze), *_answers(dense, gaze)]
    for (before, word), both, parts, unit in zip(pairs, heats, shown, units, strict=True):
        where = f"  ({unit_name(gaze, unit)})" if len(gaze.units) > 1 else ""
        blocks.append(Text([Span("Attention for", quiet=True), Span(f"“{word.text}”{where}")]))
        share = word_share(gaze, word, layers, None)
        most = [gaze.pixels[region] for region in heaviest(share.tolist(), top) if region in gaze.regions_of(*unit)]
        shots, below = [], []
        for trace, heat, part, boxes in zip((dense, gaze), both, parts, ([], most), strict=True):
            full = largest if scale == "common" else float(part.max(initial=0))
            weights = part / full if full > 0 else part
            places = list(zip(entry_pixels(trace, unit), weights.tolist(), strict=True))
            shots.append(Shot(trace.items[unit[0]], unit[1], wash=places, boxes=boxes))
            below.append(_concentration(heat, full))
        above = [f"dense: {_seen(dense, before)}", f"gaze: {_seen(gaze, word)}"]
        blocks.append(Strip(shots, above, below))
    return Sheet(blocks, side)


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
    if any(heat is None for heat in heats):
        raise ValueError(
            f"{name} has no attention weights; write the trace again with `cambrian-gaze generate … --trace_file FILE "
            "--trace_attention`"
        )
    return np.mean(heats, axis=0)


def _answers(dense: TraceData, gaze: TraceData) -> list[Text]:
    if dense.answer == gaze.answer:
        return [Text([Span("Answer:", quiet=True), Span(gaze.answer)], lines=4)]
    pairs = (("Dense:", dense), ("Gaze:", gaze))
    return [Text([Span(name, quiet=True), Span(trace.answer)], lines=4) for name, trace in pairs]


def _seen(trace: TraceData, word: Word) -> str:
    """How many visual entries entered the softmax for a word, as counted."""
    counted = float(trace.attended[list(word.tokens), :, :, 0].mean())
    return f"{counted:.4g} of {trace.num_visual} entries"


def _concentration(heat: np.ndarray, full: float) -> str:
    number = half(heat)
    return f"half of it in {number} {'entry' if number == 1 else 'entries'}; full colour: {100 * full:.2g} %"
