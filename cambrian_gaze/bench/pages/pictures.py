"""The pictures of the benchmarks' pages, drawn from rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from cambrian_gaze.bench.pages import rows as of
from cambrian_gaze.bench.pages.decode_pictures import draw_decode
from cambrian_gaze.bench.pages.picture import Picture, dot_picture, guide, line, line_picture, mebibytes, series
from cambrian_gaze.bench.results import Run
from cambrian_gaze.measure import Row
from cambrian_gaze.viz.charts.charts import Axis, Series
from cambrian_gaze.viz.charts.dot_chart import Mark, bar_chart
from cambrian_gaze.viz.charts.drawing import DENSE, FIRST, SECOND, THIRD, available
from cambrian_gaze.viz.charts.picture import picture


def draw(bench: str, runs: Sequence[Run]) -> list[Picture]:
    """All pictures of a bench's runs on one device, as far as there are rows for them; none without matplotlib."""
    if not available():
        return []
    sections = {run.section: run.sized for run in runs}
    return list(_DRAWN[bench](sections))


def _prefill(sections: Mapping[str, Sequence[Row]]) -> Iterator[Picture]:
    rows = sections.get("bench prefill", ())
    if not rows:
        return
    note = "one layer, {heads} heads on {kv_heads} KV heads of {head_dim}, {dtype}".format(**rows[0])
    for name, value, power, form in (("time", "median_us", 2, of.duration), ("memory", "peak_bytes", 1, mebibytes)):
        dense, gaze = (line((r for r in rows if r["arm"] == arm), "visual_tokens", value) for arm in ("dense", "gaze"))
        lines = [series("dense", dense, DENSE), series("gaze", gaze, FIRST)]
        lines += guide(dense if power > 1 else gaze, power)
        yield from line_picture(
            f"prefill-{name}",
            f"{name.capitalize()} of a prefill",
            note,
            lines,
            Axis("visual tokens N", log=True, form=of.count),
            Axis(name, log=True, form=form),
        )


def _attention(sections: Mapping[str, Sequence[Row]]) -> Iterator[Picture]:
    rows = of.select(sections.get("bench attention", ()))
    arms = [arm for arm in dict.fromkeys(r["arm"] for r in rows) if arm not in ("dense", "varlen_reference")]
    if not arms:
        return
    looks = itertools.product((False, True), (FIRST, SECOND, THIRD))
    marks = {arm: Mark(stroke, hollow, square=hollow) for arm, (hollow, stroke) in zip(arms, looks, strict=False)}
    cases: dict[str, dict[str, float]] = {}
    for row in rows:
        label = f"{row['visual_tokens']:,} + {row['text_tokens']:,} tokens, {_SHORT_MODES[row['mode']]}"
        if row["arm"] in marks and row["ratio_to_dense"]:
            cases.setdefault(label, {})[row["arm"]] = row["ratio_to_dense"]
    note = "one layer, {heads} heads on {kv_heads} KV heads of {head_dim}, {dtype}; visual + text".format(**rows[0])
    yield from dot_picture("attention-ratios", "Attention of a training sample, speed beside dense", note, cases, marks)
    both = [r for r in rows if r["mode"] == "forward+backward" and r["text_tokens"] == rows[0]["text_tokens"]]
    lines = [
        series(arm, line((r for r in both if r["arm"] == arm), "visual_tokens", "peak_bytes"), stroke)
        for arm, stroke in (("dense", DENSE), *((arm, mark.stroke) for arm, mark in marks.items()))
    ]
    note = f"one layer, {rows[0]['text_tokens']} text tokens, {rows[0]['dtype']}"
    yield from line_picture(
        "attention-memory",
        "Memory of attention, forward and backward",
        note,
        lines + guide(_points(lines[1]), 1),
        Axis("visual tokens N", log=True, form=of.count),
        Axis("memory", log=True, form=mebibytes),
    )


_SHORT_MODES = {"forward": "forward", "forward+backward": "with backward"}


def _points(one: Series) -> dict[float, float]:
    return dict(zip(one.x, one.y, strict=True))


def _train_step(sections: Mapping[str, Sequence[Row]]) -> Iterator[Picture]:
    rows = of.select(sections.get("bench train-step", ()))
    cases: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["form"] != "sdpa" and row["ratio_to_dense"]:
            name = row["arm"] if row["arm"] != "dense" else "gaze, all regions"
            cases[f"{row['preset']}, {name}"] = {"steps": row["ratio_to_dense"]}
    note = "{text_tokens} text and {visual_tokens:,} visual tokens, {dtype}".format(**rows[0]) if rows else ""
    title = "Whole training steps, speed beside dense"
    yield from dot_picture("train-step-ratios", title, note, cases, {"steps": Mark(FIRST)})


def _data(sections: Mapping[str, Sequence[Row]]) -> Iterator[Picture]:
    rows = sections.get("bench data", ())
    for row in of.select(rows, arm="pack samples"):
        bars = [("eight padded to the longest", row["padded_share"], DENSE), ("packed", row["packed_share"], FIRST)]
        chart = bar_chart(bars, label="Padding", form=lambda share: f"{share:.2%}", x_label="share of all tokens")
        title, note = "Padding in a batch", row["case"]
        yield Picture("data-padding", picture(chart, title, note), f"{title} ({note})")
    lines = of.select(rows, kind="lines")
    reads = of.select(lines, arm="read a row at random")
    yield from line_picture(
        "data-index",
        "The row index of a JSONL file",
        "files in the page cache",
        [
            series("build it, once", of.line(of.select(lines, arm="build the index"), "rows"), DENSE),
            series("open it", of.line(reads, "rows", "open_us"), FIRST),
            series("read a row", of.line(reads, "rows"), SECOND),
        ],
        Axis("rows of the file", log=True, form=of.count),
        Axis("time", log=True, form=of.duration),
    )


_DRAWN = {
    "attention": _attention,
    "prefill": _prefill,
    "decode": draw_decode,
    "train-step": _train_step,
    "data": _data,
}
