"""Child processes for what strangers wrote: unlike a thread they can be stopped, and they take no module from the
working folder, which may be a stranger's too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cambrian_gaze

OWN_MODULES = "import sys\nsys.path[:] = [place for place in sys.path if place]\n"
"""First lines of what `python -c` runs, which puts the working folder first."""

START_SECONDS = 120
"""Until a child that tries something out has started and ended, on a machine that is busy."""


def own_modules(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` in which `python -m` takes no module from the working folder; where this package itself is taken
    from there, it is left as it is. Python 3.10 does not know the setting."""
    if Path(cambrian_gaze.__file__).resolve().parents[1] == Path.cwd():
        return dict(environment)
    return {"PYTHONSAFEPATH": "1", **environment}


def try_out(code: str, given: Mapping[str, Any], *options: str) -> subprocess.CompletedProcess[str] | None:
    """Run Python `code` with `given` as JSON on its standard input, under options of the interpreter. It sets its own
    limits. None where it has not ended after `START_SECONDS`."""
    command = [sys.executable, *options, "-c", code]
    try:
        return subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=START_SECONDS)
    except subprocess.TimeoutExpired:
        return None
