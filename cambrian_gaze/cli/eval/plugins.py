"""`--plugin`: Python files of the user's own that register benchmarks or policies. Plain Python until one is loaded."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import stat
import sys
import traceback
from collections.abc import Sequence


def add_plugin(parser: argparse.ArgumentParser) -> None:
    """The option, which may be repeated."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE.py",
        help="a Python file of yours that registers benchmarks or policies; it is run as it is; repeat it for several",
    )


def load_plugins(paths: Sequence[str]) -> None:
    """Run the files that the user named, each once in a process. Nothing is looked for: a path is a path.

    Raises: ValueError for what is no regular file ending in .py (links, folders and pipes are none), and for a file
    that raises, with its line.
    """
    for path in paths:
        _load(path)


def _load(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise ValueError(f"--plugin {path}: {error.strerror}; name a Python file of your own") from error
    if not stat.S_ISREG(mode) or not path.endswith(".py"):
        what = "is no regular file" if not stat.S_ISREG(mode) else "does not end in .py"
        raise ValueError(f"--plugin {path} {what}; name the Python file itself, not a link or a folder")
    real = os.path.realpath(path)
    name = f"cambrian_gaze_plugin_{hashlib.sha256(real.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, real)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == real]
        line = lines[-1] if lines else getattr(error, "lineno", "?")
        raise ValueError(f"--plugin {path}, line {line}: {type(error).__name__}: {error}") from error
