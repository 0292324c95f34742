"""Several traces in one page: the viewer of each in a frame, and what is chosen in one shown in all."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path

from cambrian_gaze.files import write_text
from cambrian_gaze.viz.style import STYLE
from cambrian_gaze.viz.trace_data import TraceData
from cambrian_gaze.viz.viewer import MAX_PAGE, asset, filled, script_digest, script_json, viewer_page, viewer_script

MOST = 6
"""Panes of a page."""


def panes_page(traces: Sequence[tuple[str, TraceData]]) -> str:
    """The whole document.

    Args:
        traces: (name, trace) of each pane.

    Raises: ValueError for fewer than two or more than `MOST`, and where a picture cannot be read.
    """
    if not 2 <= len(traces) <= MOST:
        raise ValueError(f"{len(traces)} traces; a page has 2 to {MOST} panes")
    pages = [{"name": name, "page": viewer_page(trace, MAX_PAGE // len(traces))} for name, trace in traces]
    scripts = f"'sha256-{script_digest(asset('panes.js'))}' 'sha256-{script_digest(viewer_script())}'"
    prompts = list(dict.fromkeys(trace.prompt.strip() for _, trace in traces))
    return filled(
        "panes.html",
        # The pages in the frames are under this policy as well as their own.
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {scripts}; frame-src 'self'",
        title=html.escape(prompts[0] if len(prompts) == 1 and prompts[0] else "Gaze, side by side"),
        style=STYLE + asset("viewer.css"),
        script=asset("panes.js"),
        data=script_json(pages),
    )


def write_panes(path: str | os.PathLike, traces: Sequence[tuple[str, TraceData]]) -> Path:
    """Writes the page atomically and returns its path."""
    return write_text(path, panes_page(traces))


def pane_names(paths: Sequence[str | os.PathLike]) -> list[str]:
    """A name for the trace of each file: its own, with its folder's where several have the same."""
    stems = [Path(path).stem for path in paths]
    return [
        f"{Path(path).resolve().parent.name}/{stem}" if stems.count(stem) > 1 else stem
        for path, stem in zip(paths, stems, strict=True)
    ]
