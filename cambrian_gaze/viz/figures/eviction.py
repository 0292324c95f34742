"""Eviction against gaze: what is still in memory, and what is looked at for each word (the paper's figure 4)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from cambrian_gaze.viz.draw import heaviest
from cambrian_gaze.viz.figure import unit_name
from cambrian_gaze.viz.figures.picks import Named, bare, by_kind, lead, of_layers, pick, question, word_share
from cambrian_gaze.viz.figures.sheet import Sheet, Shot, Span, Strip, Text
from cambrian_gaze.viz.render import EVICTED
from cambrian_gaze.viz.trace_data import TraceData

WORDS = 4
"""Shown where nobody said which."""


def eviction_figure(
    traces: Sequence[Named],
    *,
    words: Sequence[str] | None = None,
    tokens: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    truth: str | None = None,
    top: int = 1,
    most: int = WORDS,
) -> Sheet:
    """A column for each word of gaze's answer; a row for gaze, with the regions of that word, and one for each policy,
    with what it still held at the end: the same for every word. Colour is the share of heads that chose a region, or of
    KV heads that hold a token; what was evicted lies in the dark. Answers stand below.

    Args:
        traces: (name, trace) of one answer with gaze and of one or more under a policy that evicts.
        words, tokens, most: of gaze's answer, as in `picks.pick`.
        layers: count these alone; default: all.
        truth: what would be right; words of the answers that are not in it, in its order, are red and underlined.
        top: regions that are outlined, those that most heads chose.

    Raises: ValueError for other traces, pictures or questions that differ, policies of which nothing is kept.
    """
    found = by_kind("eviction", traces, {"gaze": (1, 1), "eviction": (1, len(traces))})
    [(_, gaze)] = found["gaze"]
    for name, trace in found["eviction"]:
        if trace.kept is None:
            why = trace.missing.get("kept", "its policy evicts nothing")
            raise ValueError(
                f"{name} does not say what was kept ({why}); take a policy that evicts, for instance snapkv"
            )
    picked = pick(gaze, words=words, tokens=tokens, most=most)
    shares = [word_share(gaze, word, layers) for word in picked]
    units = [max(gaze.units, key=lambda unit: share[gaze.regions_of(*unit)].sum()) for share in shares]
    blocks: list[Text | Strip] = [question(gaze)]
    if truth is not None:
        marked = Span("(words of an answer that are not in it are red and underlined)", quiet=True)
        blocks.append(Text([Span("Reference:", quiet=True), Span(truth), marked]))
    heads = [f"{lead(gaze, word, 1)} “{word.text}”".strip() for word in picked]
    if len(gaze.units) > 1:
        heads = [f"{head} ({unit_name(gaze, unit)})" for head, unit in zip(heads, units, strict=True)]
    shots = []
    for share, (item, frame) in zip(shares, units, strict=True):
        here = gaze.regions_of(item, frame)
        boxes = [gaze.pixels[region] for region in heaviest(share.tolist(), top) if region in here]
        shots.append(Shot(gaze.items[item], frame, wash=[(gaze.pixels[r], share[r]) for r in here], boxes=boxes))
    seen = float(of_layers(gaze.attended[..., 0], layers, axis=1).mean())
    blocks.append(Text([Span("gaze"), Span(f"looks at {seen:.4g} of {gaze.num_visual} visual tokens", quiet=True)]))
    blocks += [Strip(shots, heads), _answer(gaze, truth)]
    for name, trace in found["eviction"]:
        kept = float(of_layers(trace.kept, layers).sum(1).mean())
        title = str((trace.model.get("policy") or {}).get("name") or name)
        told = Span(f"keeps {kept:.4g} of {trace.num_visual} visual tokens, for all words", quiet=True)
        blocks.append(Text([Span(title), told]))
        blocks += [Strip([_held(trace, unit, layers) for unit in units]), _answer(trace, truth)]
    return Sheet(blocks)


def _held(trace: TraceData, unit: tuple[int, int], layers: Sequence[int] | None) -> Shot:
    """A picture with what is held in colour, by the share of KV heads, and what was evicted in the dark."""
    held = of_layers(trace.kept, layers).mean(0)[trace.entries(*unit)]
    light = (EVICTED + (255 - EVICTED) * held) / 255
    places = trace.entry_pixels(unit[0])
    dark = list(zip(places, light.tolist(), strict=True))
    return Shot(trace.items[unit[0]], unit[1], light=dark, wash=list(zip(places, held.tolist(), strict=True)))


def _answer(trace: TraceData, truth: str | None) -> Text:
    words = trace.answer.split()
    if truth is None:
        return Text([Span("answers:", quiet=True), *(Span(word) for word in words)])
    right = agreeing(words, truth.split())
    spans = [Span(word, wrong=place not in right and bool(bare(word))) for place, word in enumerate(words)]
    asked = sum(bool(bare(word)) for word in truth.split())
    count = Span(f"({len(right)} of the reference's {asked} words)", quiet=True)
    return Text([Span("answers:", quiet=True), *spans, count])


def agreeing(answer: Sequence[str], truth: Sequence[str]) -> set[int]:
    """Places of the words of an answer that are words of the truth in the same order, whatever their case and
    punctuation."""
    places = [place for place, word in enumerate(answer) if bare(word)]
    texts = [bare(answer[place]) for place in places], [bare(word) for word in truth if bare(word)]
    blocks = difflib.SequenceMatcher(None, *texts, autojunk=False).get_matching_blocks()
    return {places[block.a + n] for block in blocks for n in range(block.size)}
