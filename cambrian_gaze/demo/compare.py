"""One question answered three ways: dense, with gaze, and after eviction at the same budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cambrian_gaze.baselines.registry import make_policy
from cambrian_gaze.demo.arrivals import Stop
from cambrian_gaze.demo.conversation import Conversation, Steering
from cambrian_gaze.demo.talk import Progress, Talker
from cambrian_gaze.viz.html import Html, element
from cambrian_gaze.viz.trace import Trace
from cambrian_gaze.viz.trace_data import TraceItem

EVICTION = "snapkv"
"""The policy that stands for eviction: it keeps what the question looked at most."""


@dataclass(frozen=True)
class Way:
    """How one of the answers was given, what it took and what came of it."""

    name: str
    answer: str
    attended: float
    """Visual and context entries that entered the softmax, mean over tokens, layers and heads, as counted."""
    visual: float
    """The visual ones of them."""
    kept: float
    """Visual entries in memory at the end, per layer and KV head."""
    first: float
    """Seconds to the first token."""
    per_token: float | None
    """Median seconds between tokens."""
    trace: Trace


def compare(
    talker: Talker, conversation: Conversation, steering: Steering, items: list[TraceItem], stop: Stop | None = None
) -> Iterator[list[Way]]:
    """Answer the last question dense, with gaze, and with `EVICTION` at gaze's budget of visual tokens; the ways so
    far after each. Raises ValueError without a picture, and as `Talker.answer`."""
    boxes = talker.boxes(conversation)
    if not boxes:
        raise ValueError("without a picture there is nothing to compare; show one first")
    k = min(steering.top_k or talker.top_k, len(boxes))
    largest = max((end - first) * (bottom - top) * (right - left) for _, first, end, top, left, bottom, right in boxes)
    total = sum(frames * rows * columns for frames, rows, columns in (item.grid for item in items))
    budget = min(k * largest, total)
    ways: list[Way] = []
    for name, options in (
        ("dense", {"dense": True}),
        (f"gaze, K={k}", {"steering": steering}),
        (f"eviction ({EVICTION}), {budget} kept", {"policy": make_policy(EVICTION, {"budget": budget})}),
    ):
        [last] = talker.answer(conversation, items=items, stop=stop, live=False, **options)
        if stop is not None and stop.is_set():
            return
        ways.append(_way(name, last, total))
        yield list(ways)


def _way(name: str, last: Progress, total: int) -> Way:
    counts = last.trace.attended.reshape(-1, 3).mean(0)
    retained = getattr(last.output, "retained", None)
    kept = float(total) if retained is None else float(retained.float().mean())
    visual, both = float(counts[0]), float(counts[:2].sum())
    return Way(name, last.text, both, visual, kept, last.times.first, last.times.per_token, last.trace)


def table(ways: list[Way]) -> Html:
    """The ways as a table."""
    names = ("", "KV entries attended", "of them visual", "visual in memory", "first token", "per token", "answer")
    rows = []
    for way in ways:
        step = "–" if way.per_token is None else f"{1000 * way.per_token:.1f} ms"
        cells = (f"{way.attended:.0f}", f"{way.visual:.0f}", f"{way.kept:.0f}", f"{1000 * way.first:.0f} ms", step)
        rows.append(
            element("tr", element("th", way.name, scope="row"), [element("td", c) for c in (*cells, way.answer)])
        )
    head = element("tr", [element("th", name, scope="col") for name in names])
    note = element(
        "p",
        "Counted and measured here, once, one after the other: entries are visual and context tokens per query, layer "
        "and head; per token is the median. Eviction runs as a reference under a mask, which saves neither time nor "
        "memory: its times are no measure of the method.",
        class_="quiet",
    )
    return Html(element("div", element("table", element("thead", head), element("tbody", rows)), class_="ways") + note)
