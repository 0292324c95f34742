"""Sentences whose numbers come from the rows: what the first page says, of wins and losses alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from cambrian_gaze.bench.pages import rows as of
from cambrian_gaze.bench.results import Run
from cambrian_gaze.measure import Row

REFERENCES = ("dense", "varlen_reference")
"""Arms that the others are compared with."""


def find(bench: str, runs: Sequence[Run]) -> list[str]:
    """A bench's findings on one device, as Markdown; none where the rows are missing that they need."""
    sections = {run.section: run.sized for run in runs}
    return list(_FOUND[bench](sections))


def _tokens(rows: Iterable[Row]) -> str:
    """The range of visual tokens that rows cover."""
    sizes = sorted({row["visual_tokens"] for row in rows})
    return f"{sizes[0]:,} visual tokens" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,} visual tokens"


def _ratios(rows: Iterable[Row]) -> list[float]:
    return [row["ratio_to_dense"] for row in rows if row["ratio_to_dense"]]


def _decode(sections: Mapping[str, list[Row]]) -> Iterator[str]:
    rows = [row for row in of.select(sections.get("bench decode", ())) if row["arm"] != "dense"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine, by = of.select(rows, arm=arm), "" if arm == "decode" else f" by `{arm}`"
        if ratios := _ratios(mine):
            yield f"a step{by} with {of.share(mine)} of the regions kept, over {_tokens(mine)}: {of.speed(ratios)}."
    others = {
        "bench decode batches": "several rows at once",
        "bench decode layers": "with keys and values that the processor's cache does not hold",
        "bench decode plain torch": "without compiled code",
    }
    said = []
    for section, words in others.items():
        ratios = _ratios(of.select(sections.get(section, ()), arm="decode"))
        if section == "bench decode batches":
            ratios = _ratios(row for row in sections.get(section, ()) if row["arm"] == "decode" and row["batch"] > 1)
        if ratios:
            said.append(f"{words}, {of.speed(ratios)}")
    if said:
        yield f"{'; '.join(said)}."
    shares = of.select(sections.get("bench decode shares", ()), dtype="bf16")
    shares = of.select(shares, visual_tokens=max((row["visual_tokens"] for row in shares), default=0))
    mine = of.select(shares, granularity="kv_group", arm="decode")
    gaze = of.line(mine, "regions")
    dense = of.line(of.select(shares, arm="dense"), "visual_tokens")
    if len(gaze) > 1 and dense:
        (least, fast), (most, slow) = list(gaze.items())[0], list(gaze.items())[-1]
        whole = all(row["kept"] == 1.0 for row in of.select(mine, regions=most))
        yield (
            f"time follows K: {of.duration(fast)} with K = {least:,} and {of.duration(slow)} with "
            f"{'all' if whole else 'K ='} {most:,}, dense "
            f"{of.duration(min(dense.values()))} ({_tokens(shares)}, bf16, `kv_group`)."
        )
    yield from _fixed_k(of.select(sections.get("bench decode regions", ())))


def _fixed_k(rows: Sequence[Row]) -> Iterator[str]:
    gaze = of.select(rows, arm="decode")
    dense = list(of.line((row for row in rows if row["arm"] == "dense"), "visual_tokens").values())
    said = []
    for k in sorted({row["regions"] for row in gaze}):
        times = list(of.line(of.select(gaze, regions=k), "visual_tokens").values())
        if len(times) > 1:
            said.append(f"{times[-1] / times[0]:.1f}× with K fixed at {k}")
    if said and len(dense) > 1:
        sizes = sorted({row["visual_tokens"] for row in rows})
        more, longer = sizes[-1] / sizes[0], dense[-1] / dense[0]
        yield f"with {more:g}× the visual tokens dense takes {longer:.1f}× as long, gaze {', '.join(said)}."


def _prefill(sections: Mapping[str, list[Row]]) -> Iterator[str]:
    rows = sections.get("bench prefill", ())
    gaze = [row for row in rows if row["arm"] == "gaze"]
    if ratios := _ratios(gaze):
        largest = max(gaze, key=lambda row: row["visual_tokens"])
        tail = f" ({of.short(largest['ratio_to_dense'])}× at the largest)" if len(ratios) > 1 else ""
        yield f"time over {_tokens(gaze)}: {of.speed(ratios)}{tail}."
    memory = of.line(gaze, "visual_tokens", "peak_bytes")
    dense = of.line((row for row in rows if row["arm"] == "dense"), "visual_tokens", "peak_bytes")
    if len(memory) > 1 and (power := of.exponent(memory)) is not None and dense:
        size = max(memory)
        beside = f", dense {of.size(dense[size])}" if size in dense else ""
        yield f"memory grows as N^{power:.2f}: {of.size(memory[size])} beyond the cache at {size:,}{beside}."


def _attention(sections: Mapping[str, list[Row]]) -> Iterator[str]:
    rows = [row for row in sections.get("bench attention", ()) if row["arm"] not in REFERENCES]
    said = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        for mode in ("forward", "forward+backward"):
            if ratios := _ratios(of.select(rows, arm=arm, mode=mode)):
                said.append(f"`{arm}` {mode.replace('+', ' and ')}: {of.speed(ratios)}")
    if said:
        yield f"over {_tokens(rows)}, {'; '.join(said)}."


def _train_step(sections: Mapping[str, list[Row]]) -> Iterator[str]:
    for row in of.select(sections.get("bench train-step", ()), arm="gaze"):
        if ratios := _ratios([row]):
            yield f"a whole step of the {row['preset']} preset with {_tokens([row])}: {of.speed(ratios)}."


def _data(sections: Mapping[str, list[Row]]) -> Iterator[str]:
    rows = sections.get("bench data", ())
    for row in of.select(rows, arm="pack samples"):
        yield (
            f"packing leaves {row['packed_share']:.2%} of padding, where eight samples padded to the longest have "
            f"{row['padded_share']:.0%}."
        )
    reads = of.select(rows, arm="read a row at random", kind="lines")
    if reads:
        counts = sorted(row["rows"] for row in reads)
        yield (
            f"an indexed JSONL of {counts[0]:,} to {counts[-1]:,} rows opens in "
            f"{of.span([row['open_us'] / 1e3 for row in reads], ' ms')}, reads a row in "
            f"{of.span([row['median_us'] for row in reads], ' µs')}"
            + (
                f" and holds {of.span([row['resident_bytes'] / 2**20 for row in reads], ' MiB')} of memory."
                if all(row["resident_bytes"] for row in reads)
                else "."
            )
        )


_FOUND = {
    "decode": _decode,
    "prefill": _prefill,
    "attention": _attention,
    "train-step": _train_step,
    "data": _data,
}
