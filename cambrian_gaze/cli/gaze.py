"""`cambrian-gaze gaze`: look at saved traces. Each action is a module with `build_parser()` and `run(arguments)`,
imported when it is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from cambrian_gaze.cli.arguments import one_line, table_parser

ACTIONS = {
    "view": ("cambrian_gaze.cli.gaze_view", "one HTML page to explore a trace in, offline"),
    "render": ("cambrian_gaze.cli.gaze_render", "pictures of a trace for papers: PNG, SVG, PDF, GIF"),
}
"""Name → module and summary."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one action. Returns the exit status: 2 for what was given wrongly."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = table_parser("cambrian-gaze gaze", "Look at saved traces:", ACTIONS).parse_args(arguments[:1]).name
    action = importlib.import_module(ACTIONS[name][0])
    options = action.build_parser().parse_args(arguments[1:])
    try:
        print(action.run(options))
    except (OSError, ValueError) as error:
        print(f"cambrian-gaze gaze {name}: {one_line(error)}", file=sys.stderr)
        return 2
    return 0
