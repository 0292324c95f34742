"""The benchmarks by name: one declaration each, in the modules `image_*` and `video*`; and a place for your own."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from cambrian_gaze.evaluation.benchmarks.declare import FIELD_KINDS, PROTOCOLS, Benchmark, BenchmarkSource
from cambrian_gaze.evaluation.benchmarks.gazebench import GAZEBENCH
from cambrian_gaze.evaluation.benchmarks.image_choice import (
    ADE,
    MMBENCH_CN,
    MMBENCH_EN,
    MMMU,
    MMVP,
    OMNI,
    REALWORLDQA,
    SQA,
)
from cambrian_gaze.evaluation.benchmarks.image_short import CHARTQA, GQA, MATHVISTA, MME, OCRBENCH, TEXTVQA
from cambrian_gaze.evaluation.benchmarks.video import VIDEO_BENCHMARKS
from cambrian_gaze.evaluation.benchmarks.video_extra import EXTRA_VIDEO_BENCHMARKS
from cambrian_gaze.plugins import registers, remedy

__all__ = [
    "BENCHMARKS",
    "PROTOCOLS",
    "SHIPPED",
    "SUITES",
    "Benchmark",
    "BenchmarkSource",
    "find",
    "protocols",
    "register_benchmark",
]

IMAGE_BENCHMARKS = (
    MME, MMBENCH_EN, MMBENCH_CN, MMVP, REALWORLDQA, ADE, OMNI, GQA, SQA, MMMU, MATHVISTA, CHARTQA, OCRBENCH, TEXTVQA,
)  # fmt: skip
"""In the order of the columns of the paper's Table 1."""

SHIPPED = (*IMAGE_BENCHMARKS, *VIDEO_BENCHMARKS, *EXTRA_VIDEO_BENCHMARKS, *GAZEBENCH)
"""Those that come with the package."""

BENCHMARKS: dict[str, Benchmark] = {one.name: one for one in SHIPPED}
"""All that `--tasks` may name: those shipped, and those registered."""

SUITES: dict[str, tuple[str, ...]] = {
    "image": tuple(one.name for one in IMAGE_BENCHMARKS),
    "video": tuple(one.name for one in VIDEO_BENCHMARKS),
    "video_extra": tuple(one.name for one in EXTRA_VIDEO_BENCHMARKS),
    "gazebench": tuple(one.name for one in GAZEBENCH),
}
"""Names that stand for several benchmarks."""


@registers("benchmark")
def register_benchmark(benchmark: Benchmark) -> Benchmark:
    """Make a benchmark of your own one that `find`, `run`, `--tasks` and tables know, and return it.

    A benchmark is a declaration: where its rows lie, what is asked of each, and what counts as right.

    >>> from cambrian_gaze.evaluation.benchmarks import Benchmark, BenchmarkSource, register_benchmark
    >>> from cambrian_gaze.evaluation.benchmarks.declare import IMAGE, TEXT, WORD, both, with_picture
    >>> def right(answer, target):
    ...     return float(answer.strip().lower() == target["answer"].lower())
    >>> signs = register_benchmark(
    ...     Benchmark(
    ...         name="street_signs",  # what --tasks calls it
    ...         title="Street signs",  # what reports call it
    ...         source=BenchmarkSource("me/street-signs", "test"),  # hub id, or ROOT/me/street-signs on disk
    ...         fields={"image": IMAGE, "question": TEXT, "answer": TEXT},  # what is read, checked before the run
    ...         ask=lambda row, protocol: with_picture(row, row["question"] + WORD),
    ...         target=lambda row, protocol: {"answer": row["answer"]},  # what the scorer needs, in JSON types
    ...         score=both(right),  # (answer, target) -> 0 to 1, None: undecided; one rule for both protocols
    ...         rows=250,  # of the split; a copy with others is INCOMPLETE
    ...         samples=250,  # rows that `keep` leaves, here all
    ...         max_new_tokens=16,
    ...     )
    ... )

    More (scoring groups, categories, weights, videos) are fields of `Benchmark`. In a process, call this before
    `evaluation.run.run`; on the command line, put it into a file and name that: `cambrian-gaze eval run --plugin
    signs.py --tasks street_signs …`. `cambrian-gaze eval doctor` checks a declaration against its rows.

    Raises: ValueError for a name that is taken or is no name, a protocol without a scorer, or an unknown kind of field.
    """
    name = benchmark.name
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name of a benchmark; use small letters, digits and _, as in street_signs")
    taken = {*BENCHMARKS, *SUITES, *(one.in_table for one in BENCHMARKS.values())}
    for given in (name, benchmark.in_table):
        if given in taken and BENCHMARKS.get(name) is not benchmark:
            raise ValueError(f"there is a benchmark, suite or column {given!r} already; give yours another name")
    if set(benchmark.score) != set(PROTOCOLS):
        raise ValueError(
            f"benchmark {name!r} has scorers for {', '.join(benchmark.score) or 'nothing'}; each of "
            f"{', '.join(PROTOCOLS)} needs one: score=both(scorer) is the same rule for all"
        )
    for field, kind in benchmark.fields.items():
        if kind not in FIELD_KINDS:
            raise ValueError(f"benchmark {name!r}: field {field!r} is {kind!r}; kinds are {', '.join(FIELD_KINDS)}")
    BENCHMARKS[name] = benchmark
    return benchmark


def find(names: Iterable[str]) -> list[Benchmark]:
    """Benchmarks by name, suites opened, each once, in the order given.

    Raises: ValueError for an unknown name, with the nearest.
    """
    found: dict[str, Benchmark] = {}
    for name in names:
        for one in SUITES.get(name, (name,)):
            if one not in BENCHMARKS:
                near = difflib.get_close_matches(one, [*BENCHMARKS, *SUITES], n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join([*SUITES, *BENCHMARKS])}"
                raise ValueError(f"unknown benchmark {one!r}; {hint}; {remedy('benchmark', one, 'register_benchmark')}")
            found[one] = BENCHMARKS[one]
    return list(found.values())


def protocols(name: str) -> tuple[str, ...]:
    """`cambrian`, `official` or `both` as protocols. Raises ValueError for anything else."""
    if name == "both":
        return PROTOCOLS
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}, both")
    return (name,)
