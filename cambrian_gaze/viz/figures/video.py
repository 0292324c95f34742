"""Frames of a video with the regions that each word looked at most (the paper's figure 5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cambrian_gaze.viz.draw import heaviest
from cambrian_gaze.viz.figure import unit_name
from cambrian_gaze.viz.figures.picks import Named, by_kind, lead, pick, question, word_share
from cambrian_gaze.viz.figures.sheet import Sheet, Shot, Span, Strip, Text
from cambrian_gaze.viz.trace_data import TraceData

WORDS, FRAMES, LEAD = 3, 4, 2
"""Shown where nobody said which, and words of the answer before each word."""
TOP = 3
"""Regions of a word that are outlined."""


def video_figure(
    traces: Sequence[Named],
    *,
    words: Sequence[str] | None = None,
    tokens: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    frames: Sequence[int] | None = None,
    most: int = FRAMES,
    top: int = TOP,
    fps: float | None = None,
) -> Sheet:
    """A row for each word, a column for each frame; red boxes on the word's regions that most heads chose, below each
    frame its share of the word's gaze.

    Args:
        traces: (name, trace) of one answer about a video, with gaze.
        words, tokens: of the answer, as in `picks.pick`.
        layers: count these alone; default: all.
        frames: numbers of frames, over all items; default: those that the words looked at most, each word's first, at
            most `most` or one for each word.
        top: regions of a word that are outlined, over all frames.
        fps: frames that were taken a second, where frames shall be told by their time: a trace does not hold it.

    Raises: ValueError for other traces, and frames or words that there are not.
    """
    found = by_kind("video", traces, {"gaze": (1, 1)})
    [(name, trace)] = found["gaze"]
    if not any(item.kind == "video" for item in trace.items):
        raise ValueError(f"{name} is about no video; write a trace with `cambrian-gaze generate … --video FILE`")
    if fps is not None and not fps > 0:
        raise ValueError(f"fps must be above 0, not {fps}")
    if wrong := [n for n in frames or () if not 0 <= n < len(trace.units)]:
        raise ValueError(f"frame {wrong[0]}: the trace has frames 0 to {len(trace.units) - 1}")
    picked = pick(trace, words=words, tokens=tokens, most=WORDS)
    shares = [word_share(trace, word, layers) for word in picked]
    chosen = _looked_at(trace, shares, most, top) if frames is None else list(frames)
    if not chosen:
        raise ValueError(f"{name}: no head chose a region for these words; name others")
    blocks: list[Text | Strip] = [question(trace), Text([Span("Answer:", quiet=True), Span(trace.answer)], lines=6)]
    for place, (word, share) in enumerate(zip(picked, shares, strict=True)):
        boxes = heaviest(share.tolist(), top)
        total = share.sum() or 1.0
        shots, below = [], []
        for number in chosen:
            item, frame = trace.units[number]
            here = trace.regions_of(item, frame)
            shots.append(Shot(trace.items[item], frame, boxes=[trace.pixels[r] for r in boxes if r in here]))
            below.append(f"{100 * share[here].sum() / total:.0f} %")
        above = [] if place else [_frame_name(trace, trace.units[number], fps) for number in chosen]
        blocks += [
            Text([Span(lead(trace, word, LEAD), quiet=True), Span(f"“{word.text}”")]),
            Strip(shots, above, below),
        ]
    return Sheet(blocks)


def _looked_at(trace: TraceData, shares: Sequence[np.ndarray], most: int, top: int) -> list[int]:
    """Numbers of the frames to show, ascending: of each word the one with most of its outlined regions, then those
    whose part of a word's outlined regions is largest."""
    parts = np.zeros((len(shares), len(trace.units)))
    for row, share in enumerate(shares):
        outlined = heaviest(share.tolist(), top)
        for number, unit in enumerate(trace.units):
            parts[row, number] = share[[r for r in trace.regions_of(*unit) if r in outlined]].sum()
    looked = [row for row in range(len(shares)) if parts[row].any()]
    chosen = list(dict.fromkeys(int(parts[row].argmax()) for row in looked))
    others = sorted(np.flatnonzero(parts.any(0)).tolist(), key=lambda number: -parts[:, number].max())
    chosen += [number for number in others if number not in chosen][: max(0, most - len(chosen))]
    return sorted(chosen)


def _frame_name(trace: TraceData, unit: tuple[int, int], fps: float | None) -> str:
    if fps is None or trace.items[unit[0]].kind != "video":
        return unit_name(trace, unit)
    several = f"video {unit[0] + 1}, " if len(trace.items) > 1 else ""
    return f"{several}{unit[1] / fps:.4g} s"
