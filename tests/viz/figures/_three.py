"""Traces of one question: dense, gaze, and under a policy that evicts."""

from __future__ import annotations

import numpy as np

from cambrian_gaze.viz.trace import ALL, NONE, Trace
from tests.viz._traces import make_trace, noise, with_weights

TOKENS = ["A", " cat", " s", "its", " on", " the", " grass", ".", "<end>"]


def gaze_trace(**options) -> Trace:
    return with_weights(make_trace(**{"tokens": list(TOKENS), "pictures": [[noise(90, 60)]], **options}))


def dense_trace(**options) -> Trace:
    trace = gaze_trace(**options)
    trace.regions[:] = NONE
    trace.regions[..., 0] = ALL
    trace.attended[..., 0] = trace.num_visual
    return with_weights(trace, seed=1)


def evicted_trace(kept: list[int], name: str = "snapkv", **options) -> Trace:
    """All layers hold these visual tokens and no other."""
    trace = gaze_trace(**options)
    trace.regions[:] = NONE
    trace.kept = np.zeros((2, trace.num_visual), dtype=np.float32)
    trace.kept[:, kept] = 1.0
    trace.model["policy"] = {"name": name}
    return trace


def said(block) -> str:
    """The words of a text."""
    return " ".join(span.text for span in block.spans)
