"""Runs of the tiny model on the small local copies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cambrian_gaze.evaluation.benchmarks import BENCHMARKS, PROTOCOLS, find
from cambrian_gaze.evaluation.benchmarks.rows import BenchmarkRows
from cambrian_gaze.evaluation.run import RunOptions, run

LENGTH = 6
"""Tokens per answer."""


def evaluate(
    tiny: tuple[Any, Any], data_root: Path, output: Path, names: Sequence[str], **options: Any
) -> dict[str, str]:
    """Answer benchmarks; returns the errors."""
    values = {"protocols": PROTOCOLS, "max_new_tokens": LENGTH, "batch_size": 8, "data_root": data_root} | options
    return run(RunOptions(benchmarks=find(names), model_name="tiny", **values), output, lambda device: tiny)


def expect_these_rows(monkeypatch: pytest.MonkeyPatch, data_root: Path, names: Sequence[str]) -> None:
    """Make the declarations expect the small copies' counts and the runs' length, so that runs are complete."""
    for one in find(names):
        rows = BenchmarkRows(one, data_root)
        kept = sum(one.keep is None or one.keep(row) for row in rows)
        small = dataclasses.replace(one, rows=len(rows), samples=kept, max_new_tokens=LENGTH)
        monkeypatch.setitem(BENCHMARKS, one.name, small)
