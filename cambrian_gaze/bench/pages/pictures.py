"""The pictures of the benchmarks' pages, drawn from rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cambrian_gaze.bench.pages import rows as of
from cambrian_gaze.bench.results import Run
from cambrian_gaze.measure import Row
from cambrian_gaze.viz.charts.charts import Series, line_chart
from cambrian_gaze.viz.charts.dot_chart import Dots, Mark, bar_chart, dot_chart
from cambrian_gaze.viz.charts.picture import DENSE, FIRST, SECOND, THIRD, picture

GRANULARITIES = {"kv_group": FIRST, "q_head": SECOND}
GAZE = {
    **{name: ({"arm": "decode", "granularity": name}, stroke) for name, stroke in GRANULARITIES.items()},
    **{f"{name}, triton": ({"arm": "triton", "granularity": name}, THIRD) for name in GRANULARITIES},
}
"""Lines of decoding with gaze: which rows, and their colour. `triton` is taken by name alone."""

FRONT = (
    *("decode-time-bf16", "decode-over-k-bf16", "prefill-time", "prefill-memory", "decode-ratios", "attention-ratios"),
    *("data-padding", "data-index"),
)
"""The pictures of the first page, two in a row."""

SIDES = ("gaze slower", "gaze faster")


@dataclass(frozen=True)
class Picture:
    """One SVG file."""

    name: str
    """Of the file, without device and ending."""
    svg: str
    alt: str

    @property
    def place(self) -> int | None:
        """Where on the first page it stands; None: nowhere."""
        return FRONT.index(self.name) if self.name in FRONT else None


def draw(bench: str, runs: Sequence[Run]) -> list[Picture]:
    """All pictures of a bench's runs on one device, as far as there are rows for them."""
    sections = {run.section: run.sized for run in runs}
    return list(_DRAWN[bench](sections))


def _lines(
    name: str,
    title: str,
    note: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    form,
    log: bool = True,
    x_ticks: Sequence[float] | None = None,
    x_form=of.count,
) -> Iterator[Picture]:
    series = [one for one in series if len(one.x)]
    real = [one for one in series if not one.guide]
    if max((len(one.x) for one in real), default=0) < 2:
        return
    chart = line_chart(
        series,
        label=title,
        x_label=x_label,
        y_label=y_label,
        log_x=log,
        log_y=log,
        y_min=None if log else 0,
        x_ticks=x_ticks or sorted({x for one in real for x in one.x}),
        x_format=x_form,
        y_format=form,
        named_at_ends=True,
        height=290,
    )
    names = ", ".join(one.name for one in real)
    yield Picture(name, picture(chart, title, note), f"{title} ({note}): {names}")


def _mebibytes(value: float) -> str:
    return f"{of.short(value)} MiB"


def _line(rows: Iterable[Row], key: str, value: str) -> dict[float, float]:
    """As `rows.line`, bytes in MiB, so that an axis has round ones."""
    unit = 2**20 if value.endswith("_bytes") else 1
    return {at: number / unit for at, number in of.line(rows, key, value).items()}


def _series(name: str, points: Mapping[float, float], stroke: str) -> Series:
    return Series(name, list(points), list(points.values()), stroke=stroke)


def _guide(points: Mapping[float, float], power: int) -> list[Series]:
    """What a line from the first point would be if it grew by a power of N."""
    if len(points) < 2:
        return []
    sizes, first = list(points), next(iter(points.values()))
    name = "∝ N" if power == 1 else f"∝ N{'²' if power == 2 else power}"
    return [Series(name, sizes, [first * (n / sizes[0]) ** power for n in sizes], stroke="var(--quiet)", guide=True)]


def _prefill(sections: Mapping[str, Sequence[Row]]) -> Iterator[Picture]:
    rows = sections.get("bench prefill", ())
    if not rows:
        return
    note = "one layer, {heads} heads on {kv_heads} KV heads of {head_dim}, {dtype}".format(**rows[0])
    for name, value, power, form in (("time", "median_us", 2, of.duration), ("memory", "peak_bytes", 1, _mebibytes)):
        dense, gaze = (_line((r for r in rows if r["arm"] == arm), "visual_tokens", value) for arm in ("dense", "gaze"))
        lines = [_series("dense", dense, DENSE), _series("gaze", gaze, FIRST)]
        lines += _guide(dense if power > 1 else gaze, power)
        yield from _lines(
            f"prefill-{name}",
            f"{name.capitalize()} of a prefill",
            note,
            lines,
            x_label="visual tokens N",
            y_label=name,
            form=form,
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
    yield from _dots("attention-ratios", "Attention of a training sample, speed beside dense", note, cases, marks)
    both = [r for r in rows if r["mode"] == "forward+backward" and r["text_tokens"] == rows[0]["text_tokens"]]
    lines = [
        _series(arm, _line((r for r in both if r["arm"] == arm), "visual_tokens", "peak_bytes"), stroke)
        for arm, stroke in (("dense", DENSE), *((arm, mark.stroke) for arm, mark in marks.items()))
    ]
    note = f"one layer, {rows[0]['text_tokens']} text tokens, {rows[0]['dtype']}"
    yield from _lines(
        "attention-memory",
        "Memory of attention, forward and backward",
        note,
        lines + _guide(_points(lines[1]), 1),
        x_label="visual tokens N",
        y_label="memory",
        form=_mebibytes,
    )


_SHORT_MODES = {"forward": "forward", "forward+backward": "with backward"}


def _points(one: Series) -> dict[float, float]:
    return dict(zip(one.x, one.y, strict=True))


def _dots(
    name: str,
    title: str,
    note: str,
    cases: Mapping[str, Mapping[str, float]],
    marks: Mapping[str, Mark],
) -> Iterator[Picture]:
    if not any(cases.values()):
        return
    chart = dot_chart(
        [Dots(label, values) for label, values in cases.items()],
        marks,
        label=title,
        sides=SIDES,
        x_label="time of dense / time of gaze",
    )
    yield Picture(name, picture(chart, title, note), f"{title} ({note}): {', '.join(marks)}")


def _decode(sections: Mapping[str, Sequence[Row]]) -> Iterator[Picture]:
    for dtype in ("bf16", "fp32"):
        rows = of.select(sections.get("bench decode", ()), dtype=dtype)
        dense = of.line(of.select(rows, arm="dense"), "visual_tokens")
        lines = [_series("dense", dense, DENSE), *_gaze(rows, "visual_tokens")]
        yield from _lines(
            f"decode-time-{dtype}",
            "Time of a decoding step over the visual tokens",
            f"{of.layer(rows)}, {dtype}, {_kept(rows)}",
            lines + _guide(dense, 1),
            x_label="visual tokens N",
            y_label="time",
            form=of.duration,
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
    yield from _lines(
        f"decode-over-k-{dtype}",
        "Time of a decoding step over K",
        f"{of.layer(rows)}, {dtype}, {tokens:,} visual tokens",
        [_series("dense", flat, DENSE), *lines],
        x_label=f"regions kept K, of {max(ks):,}" if whole else "regions kept K",
        y_label="time",
        form=of.duration,
        log=False,
        x_form=lambda k: f"{k:,.0f}",
    )


def _gaze(rows: Sequence[Row], key: str) -> list[Series]:
    """A line per granularity and way to decode."""
    return [_series(name, of.line(of.select(rows, **wanted), key), stroke) for name, (wanted, stroke) in GAZE.items()]


def _with_gaze(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["arm"] != "dense"]


def _fixed_k(rows: Sequence[Row]) -> Iterator[Picture]:
    gaze = of.select(rows, arm="decode")
    ks = sorted({r["regions"] for r in gaze})
    if not gaze:
        return
    strokes = zip(ks, itertools.cycle((FIRST, SECOND, THIRD)), strict=False)
    dense = of.line(of.select(rows, arm="dense"), "visual_tokens")
    lines = [_series(f"K = {k}", of.line(of.select(gaze, regions=k), "visual_tokens"), stroke) for k, stroke in strokes]
    yield from _lines(
        "decode-fixed-k",
        "Time of a decoding step with K as a number",
        "{layer}, {dtype}, {granularity}".format(layer=of.layer(rows), **gaze[0]),
        [_series("dense", dense, DENSE), *lines, *_guide(dense, 1)],
        x_label="visual tokens N",
        y_label="time",
        form=of.duration,
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
    yield from _dots("decode-ratios", "Decoding steps, speed beside dense", note, cases, marks)


def _kept(rows: Iterable[Row]) -> str:
    gaze = _with_gaze(rows)
    return f"{of.share(gaze)} of the regions kept" if gaze else "dense alone"


_CASES = {
    "bench decode": "",
    "bench decode batches": ", {batch} rows",
    "bench decode layers": ", {layers} layers in turn",
    "bench decode plain torch": ", plain torch",
}
"""Section → what the case is called beside its number of tokens."""


def _train_step(sections: Mapping[str, Sequence[Row]]) -> Iterator[Picture]:
    rows = of.select(sections.get("bench train-step", ()))
    cases: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["form"] != "sdpa" and row["ratio_to_dense"]:
            name = row["arm"] if row["arm"] != "dense" else "gaze, all regions"
            cases[f"{row['preset']}, {name}"] = {"steps": row["ratio_to_dense"]}
    note = "{text_tokens} text and {visual_tokens:,} visual tokens, {dtype}".format(**rows[0]) if rows else ""
    title = "Whole training steps, speed beside dense"
    yield from _dots("train-step-ratios", title, note, cases, {"steps": Mark(FIRST)})


def _data(sections: Mapping[str, Sequence[Row]]) -> Iterator[Picture]:
    rows = sections.get("bench data", ())
    for row in of.select(rows, arm="pack samples"):
        bars = [("eight padded to the longest", row["padded_share"], DENSE), ("packed", row["packed_share"], FIRST)]
        chart = bar_chart(bars, label="Padding", form=lambda share: f"{share:.2%}", x_label="share of all tokens")
        title, note = "Padding in a batch", row["case"]
        yield Picture("data-padding", picture(chart, title, note), f"{title} ({note})")
    lines = of.select(rows, kind="lines")
    reads = of.select(lines, arm="read a row at random")
    yield from _lines(
        "data-index",
        "The row index of a JSONL file",
        "files in the page cache",
        [
            _series("build it, once", of.line(of.select(lines, arm="build the index"), "rows"), DENSE),
            _series("open it", of.line(reads, "rows", "open_us"), FIRST),
            _series("read a row", of.line(reads, "rows"), SECOND),
        ],
        x_label="rows of the file",
        y_label="time",
        form=of.duration,
    )


_DRAWN = {
    "attention": _attention,
    "prefill": _prefill,
    "decode": _decode,
    "train-step": _train_step,
    "data": _data,
}
