"""The option `--plugin` of commands that load a model, a backend, a policy or a benchmark."""

from __future__ import annotations

import argparse

from cambrian_gaze.plugins import check_plugin, load_plugins


def add_plugin(parser: argparse.ArgumentParser) -> None:
    """The option, which may be repeated. The command calls `load_given` before it loads anything."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE.py",
        help="a Python file of yours that registers descriptors, backends, towers, policies or benchmarks; it is run "
        "as it is; repeat it for several",
    )


def check_given(arguments: argparse.Namespace) -> None:
    """Look at the files that `--plugin` names, before processes start that load them. Raises: ValueError."""
    for path in arguments.plugin:
        check_plugin(path)


def load_given(arguments: argparse.Namespace) -> None:
    """Load the files that `--plugin` names, each once in a process. Raises: ValueError naming the file."""
    load_plugins(arguments.plugin)
