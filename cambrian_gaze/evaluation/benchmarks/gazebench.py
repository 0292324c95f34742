"""GazeBench's families as benchmarks: rows of a folder that `cambrian-gaze gazebench make` writes, on no hub."""

from __future__ import annotations

from typing import Any

from cambrian_gaze.evaluation.benchmarks.declare import (
    ANY,
    TEXT,
    Benchmark,
    BenchmarkSource,
    Part,
    Picture,
    Row,
    VideoRef,
    both,
)
from cambrian_gaze.evaluation.scorers import gazebench

DATASET = "cambrian-gaze/gazebench"
ROWS = 512
"""Questions per family, as `make` writes them by default."""


def _ask(row: Row, protocol: str) -> list[Part]:
    medium = Picture(path=row["image"]) if row.get("image") else VideoRef(row["video"])
    if row["position"] == "before":
        return [row["question"] + "\n", medium]
    return [medium, "\n" + row["question"]]


def _target(row: Row, protocol: str) -> dict[str, Any]:
    meta = row["meta"]
    return {"answer": row["answer"], "given": meta["given"], "values": [dict(one) for one in meta["values"]]}


def _family(name: str, medium: str = "image") -> Benchmark:
    return Benchmark(
        name=f"gazebench_{name}",
        title=f"GazeBench {name}",
        source=BenchmarkSource(DATASET, "test", name),
        fields={
            "id": TEXT,
            medium: TEXT,
            "question": TEXT,
            "answer": TEXT,
            "group": TEXT,
            "position": TEXT,
            "meta": ANY,
        },
        rows=ROWS,
        samples=ROWS,
        identity=lambda row, number: row["id"],
        group=lambda row: row["group"],
        ask=_ask,
        target=_target,
        score=both(gazebench.score_values),
        video=medium == "video",
    )


GAZEBENCH = (
    *(_family(name) for name in ("hop", "read", "count", "string", "absent")),
    *(_family(name, "video") for name in ("video", "stream")),
)
