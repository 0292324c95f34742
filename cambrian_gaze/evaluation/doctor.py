"""Is a benchmark's data what its declaration says? Schema, counts, ids, groups and media, before any weights load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.media.video import FrameSampling
from cambrian_gaze.evaluation.benchmarks.declare import ANY, IMAGE, LIST, NUMBER, PROTOCOLS, TEXT, Benchmark
from cambrian_gaze.evaluation.benchmarks.rows import BenchmarkRows
from cambrian_gaze.evaluation.samples import sample_group

SHOWN = 3
"""Problems of one kind that are listed; the rest are counted."""
_KINDS: dict[str, Callable[[Any], bool]] = {
    TEXT: lambda value: isinstance(value, str),
    NUMBER: lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    LIST: lambda value: isinstance(value, list | tuple),
    IMAGE: lambda value: isinstance(value, dict) and (bool(value.get("bytes")) or bool(value.get("path"))),
    ANY: lambda value: True,
}


def examine(benchmark: Benchmark, data_root: str | None) -> tuple[list[str], int, str]:
    """All problems of a benchmark's data, its number of rows, and its revision; with a progress bar over the media."""
    from tqdm import tqdm

    try:
        rows = BenchmarkRows(benchmark, data_root)
    except ValueError as error:
        return [str(error)], 0, benchmark.source.revision
    problems = check_schema(benchmark, rows)
    if not problems:
        with tqdm(total=len(rows), desc=benchmark.name, unit="row") as bar:
            problems = check_counts(benchmark, rows) + check_media(benchmark, rows, bar.update)
    return problems, len(rows), rows.revision


def sound_rows(benchmark: Benchmark, data_root: str | Path | None) -> BenchmarkRows:
    """The rows of a benchmark of which something can be asked. Raises ValueError with what is wrong with them."""
    rows = BenchmarkRows(benchmark, data_root)
    if problems := check_schema(benchmark, rows):
        raise ValueError("; ".join(problems))
    return rows


def check_schema(benchmark: Benchmark, rows: BenchmarkRows) -> list[str]:
    """Fields that are missing, and values of the wrong kind. Each is fatal: nothing could be asked."""
    missing = sorted(set(benchmark.fields) - rows.columns)
    if missing:
        return [f"fields missing: {', '.join(missing)} (there are {', '.join(sorted(rows.columns))})"]
    wrong = []
    for number, row in enumerate(rows):
        for name, kind in benchmark.fields.items():
            if not _KINDS[kind](row[name]):
                wrong.append(f"row {number}: {name} is {type(row[name]).__name__}, not {kind}")
    return _shown(wrong)


def check_counts(benchmark: Benchmark, rows: BenchmarkRows) -> list[str]:
    """Counts and group sizes that differ from the declaration: another revision, or a copy that is not whole."""
    problems = []
    if len(rows) != benchmark.rows:
        problems.append(f"{len(rows)} rows, {benchmark.rows} expected")
    kept = [(number, row) for number, row in enumerate(rows) if benchmark.keep is None or benchmark.keep(row)]
    if benchmark.samples is not None and len(kept) != benchmark.samples:
        problems.append(f"{len(kept)} samples, {benchmark.samples} expected")
    if benchmark.group_size is not None:
        sizes = Counter(sample_group(benchmark, row, number) for number, row in kept)
        odd = [f"group {group!r} has {n} rows" for group, n in sizes.items() if n != benchmark.group_size]
        problems += _shown([f"{text}, {benchmark.group_size} expected" for text in odd])
    same = [name for name, n in Counter(benchmark.identity(row, number) for number, row in kept).items() if n > 1]
    return problems + _shown([f"id {name!r} occurs more than once" for name in same])


def check_media(
    benchmark: Benchmark,
    rows: BenchmarkRows,
    progress: Callable[[int], object] | None = None,
    numbers: Sequence[int] | None = None,
) -> list[str]:
    """Pictures and videos that cannot be read; questions and answers that cannot be made of their row. Of all rows, or
    of those with these `numbers`."""
    problems = []
    once = FrameSampling(video_max_frames=1)
    for number in range(len(rows)) if numbers is None else numbers:
        row = rows[number]
        if benchmark.keep is None or benchmark.keep(row):
            try:
                for protocol in PROTOCOLS:
                    benchmark.target(row, protocol)
                    parts = benchmark.ask(row, protocol)
                for part in parts:  # the official protocol shows all that there is
                    if not isinstance(part, str):
                        rows.load(part, once)
            except RecordError as error:
                problems.append(f"row {number}: {error}")
            except Exception as error:  # a declaration meets values that it does not know
                problems.append(f"row {number}: {type(error).__name__}: {error}")
        if progress is not None:
            progress(1)
    return _shown(problems)


def _shown(problems: list[str]) -> list[str]:
    rest = len(problems) - SHOWN
    return problems[:SHOWN] + ([f"and {rest} more like this"] if rest > 0 else [])
