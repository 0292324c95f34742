"""The benchmarks by name: one declaration each, in the modules `image_*` and `video*`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from cambrian_gaze.evaluation.benchmarks.declare import PROTOCOLS, Benchmark
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

IMAGE_BENCHMARKS = (
    MME, MMBENCH_EN, MMBENCH_CN, MMVP, REALWORLDQA, ADE, OMNI, GQA, SQA, MMMU, MATHVISTA, CHARTQA, OCRBENCH, TEXTVQA,
)  # fmt: skip
"""In the order of the columns of the paper's Table 1."""

BENCHMARKS: dict[str, Benchmark] = {
    one.name: one for one in (*IMAGE_BENCHMARKS, *VIDEO_BENCHMARKS, *EXTRA_VIDEO_BENCHMARKS, *GAZEBENCH)
}
SUITES: dict[str, tuple[str, ...]] = {
    "image": tuple(one.name for one in IMAGE_BENCHMARKS),
    "video": tuple(one.name for one in VIDEO_BENCHMARKS),
    "video_extra": tuple(one.name for one in EXTRA_VIDEO_BENCHMARKS),
    "gazebench": tuple(one.name for one in GAZEBENCH),
}
"""Names that stand for several benchmarks."""


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
                raise ValueError(f"unknown benchmark {one!r}; {hint}")
            found[one] = BENCHMARKS[one]
    return list(found.values())


def protocols(name: str) -> tuple[str, ...]:
    """`cambrian`, `official` or `both` as protocols. Raises ValueError for anything else."""
    if name == "both":
        return PROTOCOLS
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}, both")
    return (name,)
