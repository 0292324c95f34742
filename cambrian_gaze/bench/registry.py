"""The benches by name.

A bench is a module with `add_arguments(parser)`, `run(args)` → rows (`measure.py`), `COLUMNS`, `SECTION` and
`QUICK`. The one that is asked for is imported, no other.
"""

from __future__ import annotations

import importlib
from types import ModuleType

BENCHES = {
    "attention": ("cambrian_gaze.bench.attention", "one layer of a training sample, every backend"),
    "decode": ("cambrian_gaze.bench.decode", "one decoding step of one layer"),
    "prefill": ("cambrian_gaze.bench.prefill", "one layer's prefill of a long video, and how it grows"),
    "data": ("cambrian_gaze.bench.data", "the row index, records, pictures and videos per worker, padding"),
    "train-step": ("cambrian_gaze.bench.train_step", "a whole training step of a preset, with random weights"),
}
"""Name → module and summary."""


def load(name: str) -> ModuleType:
    """The bench's module."""
    return importlib.import_module(BENCHES[name][0])
