"""What `data stats` plots: the histograms of a survey's facts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from cambrian_gaze.data.inspect.stats import aspect_ratios, even_bins, summary, used_share
from cambrian_gaze.data.inspect.survey import Facts
from cambrian_gaze.viz.charts.histograms import Histogram

_BARS = 40
_SHAPES = {-8: "1:4", -4: "1:2", 0: "1:1", 4: "2:1", 8: "4:1"}
"""Quarter octaves of width by height, and what they are called."""


def length_panels(facts: Facts, max_length: int) -> list[Histogram]:
    """Tokens, visual tokens, pictures of a sample, frames of a video; what has no values is left out."""
    mark = {f"max_length {max_length:,}": max_length}
    panels = [
        _counted("Tokens per sample", facts.lengths, "tokens", mark),
        _counted("Visual and context tokens per sample", facts.visual, "tokens"),
        _counted("Images and frames per sample", facts.units, "images and frames"),
        _counted("Frames per video", facts.frames, "frames"),
    ]
    return [panel for panel in panels if panel is not None]


def picture_panels(facts: Facts) -> list[Histogram]:
    """Sizes and shapes of the images, and what padding to a square leaves of them; empty without images."""
    if not facts.sizes:
        return []
    longer, shorter, shares = Counter(), Counter(), Counter()
    for size, count in facts.sizes.items():
        longer[max(size)] += count
        shorter[min(size)] += count
        shares[min(size) / max(size)] += count
    tenths = [i / 20 for i in range(21)]
    note = f"mean {used_share(facts):.0%}; the rest is filled where image_aspect_ratio is pad"
    panels = [
        _counted("Longer side of the images", longer, "pixels"),
        _counted("Shorter side of the images", shorter, "pixels"),
        _shapes(aspect_ratios(facts)),
        Histogram("Part of a square that an image fills unstretched", tenths, even_bins(shares, tenths), "part", note),
    ]
    return [panel for panel in panels if panel is not None]


def _counted(
    title: str, counts: Mapping[int, int], unit: str, marks: Mapping[str, float] | None = None
) -> Histogram | None:
    """Bins of a round width from 0 on; None without values."""
    if not counts:
        return None
    numbers, top = summary(counts), max(counts)
    step = _round_step(top / _BARS)
    edges = [step * i for i in range(top // step + 2)]
    note = f"median {numbers['median']:,}, 95 % up to {numbers['p95']:,}, at most {numbers['max']:,}"
    return Histogram(title, edges, even_bins(counts, edges), unit, note, marks=marks or {})


def _round_step(least: float) -> int:
    """The first of 1, 2, 5, 10, 20, ... that is at least so large."""
    power = 10 ** max(0, math.floor(math.log10(max(least, 1))))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def _shapes(ratios: Mapping[float, int]) -> Histogram:
    """Bins of a quarter octave, centred on 1:1, so that the commonest shapes fall inside one."""
    places = range(min(_SHAPES) - 1, max(_SHAPES) + 2)
    edges = [2 ** ((place - 0.5) / 4) for place in (*places, places[-1] + 1)]
    inside: Counter[float] = Counter()
    for ratio, count in ratios.items():
        inside[min(max(ratio, edges[0]), edges[-1])] += count
    numbers = summary(ratios)
    note = f"median {numbers['median']:.2f}, from {numbers['min']:.2f} to {numbers['max']:.2f}"
    label = "width : height (the outermost bars hold all that lies beyond)"
    names = [_SHAPES.get(place, "") for place in places]
    return Histogram("Shape of the images", edges, even_bins(inside, edges), label, note, names)
