"""Regular expressions from somewhere, tried out in a process of their own on the names that they are about to be
matched with here: one with many repeats may take for ever, and Python cannot be told to stop it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

SECONDS = 3
"""Of the processor, for all names of a model; published patterns take milliseconds."""
_START_SECONDS = 120
"""Until the process has started and ended, on a machine that is busy."""

_PROBE = """
import contextlib, json, re, sys
given = json.load(sys.stdin)
with contextlib.suppress(ImportError, ValueError, OSError):  # a system without this limit has the other
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (given["seconds"],) * 2)
pattern = re.compile(given["pattern"])
for name in given["names"]:
    pattern.fullmatch(name)
"""


def takes_too_long(pattern: str, names: Sequence[str]) -> bool:
    """Whether `re.fullmatch` of a pattern that compiles, with all of `names`, takes more than `SECONDS`."""
    given = {"pattern": pattern, "names": list(names), "seconds": SECONDS}
    command = [sys.executable, "-I", "-S", "-c", _PROBE]
    try:
        done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=_START_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0
