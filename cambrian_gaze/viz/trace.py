"""`Trace`: one answer and where the model looked for each of its tokens, with the pictures; read without the model.

`trace_record.trace_of` makes one of what `generate` returned, `Trace.save` and `Trace.load` keep it in one file
(`trace_file`), `viewer` and `render` show it. What it holds is in `trace_data`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cambrian_gaze.viz.trace_data import ALL, NONE, TraceData, TraceItem

__all__ = ["ALL", "NONE", "Trace", "TraceItem"]


class Trace(TraceData):
    """One answer, its gaze and its pictures, as a file and as a page."""

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the file that `load` reads, atomically, and returns its path."""
        from cambrian_gaze.viz.trace_file import write_trace_file

        return write_trace_file(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Trace:
        """A trace that `save` wrote. Raises `trace_file.TraceError`, a ValueError of one line, for anything else."""
        from cambrian_gaze.viz.trace_file import read_trace_file

        return read_trace_file(path, cls)

    def show(self, height: int = 720) -> Any:
        """The viewer in a notebook, `height` CSS pixels tall; needs IPython, which runs there."""
        from IPython.display import HTML

        return HTML(self._repr_html_(height))

    def _repr_html_(self, height: int = 720) -> str:
        from cambrian_gaze.viz.viewer import frame

        return frame(self, height)
