"""Regular expressions from somewhere, tried out in a process of their own on the names that they are about to be
matched with here: one with many repeats may take for ever, and Python cannot be told to stop it."""

from __future__ import annotations

from collections.abc import Sequence

from cambrian_gaze.children import try_out

SECONDS = 3
"""Of the processor, for all names of a model; published patterns take milliseconds."""

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
    done = try_out(_PROBE, {"pattern": pattern, "names": list(names), "seconds": SECONDS}, "-I", "-S")
    return done is None or done.returncode != 0
