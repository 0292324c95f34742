"""The pictures of decoding: time over the visual tokens and over K, and ratios to dense."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from cambrian_gaze.bench.pages import rows as of
from cambrian_gaze.bench.pages.picture import Picture, dot_picture, guide, line_picture, series
from cambrian_gaze.measure import Row
from cambrian_gaze.viz.charts.charts import Axis, Series
from cambrian_gaze.viz.charts.dot_chart import Mark
from cambrian_gaze.viz.charts.drawing import DENSE, FIRST, SECOND, THIRD

GRANULARITIES = {"kv_group": FIRST, "q_head": SECOND}
GAZE = {
    **{name: ({"arm": "decode", "granularity": name}, stroke) for name, stroke in GRANULARITIES.items()},
    **{f"{name}, triton": ({"arm": "triton", "granularity": name}, THIRD) for name in GRANULARITIES},
}
"""Lines of decoding with gaze: which rows, and their colour. `triton` is taken by name alone."""

_CASES = {
    "bench decode": "",
    "bench decode batches": ", {batch} rows",
    "bench decode layers": ", {layers} layers in turn",
    "bench decode plain torch": ", plain torch",
}
"""Section → what the case is called beside its number of tokens."""


def draw_decode(sections: Mapping[str, Sequence[Row]]) -> Iterator[Picture]:
    for dtype in ("bf16", "fp32"):
        rows = of.select(sections.get("bench decode", ()), dtype=dtype)
        dense = of.line(of.select(rows, arm="dense"), "visual_tokens")
        lines = [series("dense", dense, DENSE), *_gaze(rows, "visual_tokens")]
        yield from line_picture(
            f"decode-time-{dtype}",
            "Time of a decoding step over the visual tokens",
            f"{of.layer(rows)}, {dtype}, {_kept(rows)}",
            lines + guide(dense, 1),
            Axis("visual tokens N", log=True, form=of.count),
            Axis("time", log=True, form=of.duration),
        )
        yield from _over_k(of.select(sections.get("bench decode shares", ()), dtype=dtype), dtype)
    yield from _fixed_k(of.select(sections.get("bench decode regions", ())))
    yield from _decode_ratios(sections)


def _over_k(rows: Sequence[Row], dtype: str) -> Iterator[Picture]:
    """At the most visual tokens there are."""
    rows = of.select(rows, visual_tokens=max((r["visual_tokens"] for r in rows), default=0))
    if not rows:
        return
    tokens, dense = rows[0]["visual_tokens"], of.line(of.select(rows, arm="dense"), "regions")
    lines = _gaze(rows, "regions")
    ks, whole = sorted({k for one in lines for k in one.x}), any(r["kept"] == 1.0 for r in _with_gaze(rows))
    flat = dict.fromkeys(ks, min(dense.values())) if dense else {}
    yield from line_picture(
        f"decode-over-k-{dtype}",
        "Time of a decoding step over K",
        f"{of.layer(rows)}, {dtype}, {tokens:,} visual tokens",
        [series("dense", flat, DENSE), *lines],
        Axis(f"regions kept K, of {max(ks):,}" if whole else "regions kept K", form=lambda k: f"{k:,.0f}"),
        Axis("time", low=0.0, form=of.duration),
    )


def _gaze(rows: Sequence[Row], key: str) -> list[Series]:
    """A line per granularity and way to decode."""
    return [series(name, of.line(of.select(rows, **wanted), key), stroke) for name, (wanted, stroke) in GAZE.items()]


def _with_gaze(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["arm"] != "dense"]


def _fixed_k(rows: Sequence[Row]) -> Iterator[Picture]:
    gaze = of.select(rows, arm="decode")
    ks = sorted({r["regions"] for r in gaze})
    if not gaze:
        return
    strokes = zip(ks, itertools.cycle((FIRST, SECOND, THIRD)), strict=False)
    dense = of.line(of.select(rows, arm="dense"), "visual_tokens")
    lines = [series(f"K = {k}", of.line(of.select(gaze, regions=k), "visual_tokens"), stroke) for k, stroke in strokes]
    yield from line_picture(
        "decode-fixed-k",
        "Time of a decoding step with K as a number",
        "{layer}, {dtype}, {granularity}".format(layer=of.layer(rows), **gaze[0]),
        [series("dense", dense, DENSE), *lines, *guide(dense, 1)],
        Axis("visual tokens N", log=True, form=of.count),
        Axis("time", log=True, form=of.duration),
    )


def _decode_ratios(sections: Mapping[str, Sequence[Row]]) -> Iterator[Picture]:
    marks = {
        f"{name} {dtype}": Mark(stroke, hollow=dtype == "fp32", square=wanted["granularity"] == "q_head")
        for name, (wanted, stroke) in GAZE.items()
        for dtype in ("bf16", "fp32")
    }
    cases: dict[str, dict[str, float]] = {}
    shown = []
    for section, words in _CASES.items():
        for row in of.select(sections.get(section, ())):
            if row["arm"] == "dense" or (section == "bench decode batches" and row["batch"] == 1):
                continue
            case = cases.setdefault(f"{row['visual_tokens']:,} tokens{words.format(**row)}", {})
            name = f"{row['granularity']}{', triton' if row['arm'] == 'triton' else ''} {row['dtype']}"
            case[name] = max(row["ratio_to_dense"] or 0, case.get(name, 0))
            shown.append(row)
    marks = {name: mark for name, mark in marks.items() if any(name in case for case in cases.values())}
    note = f"{of.layer(shown)}, {_kept(shown)}"
    yield from dot_picture("decode-ratios", "Decoding steps, speed beside dense", note, cases, marks)


def _kept(rows: Iterable[Row]) -> str:
    gaze = _with_gaze(rows)
    return f"{of.share(gaze)} of the regions kept" if gaze else "dense alone"
