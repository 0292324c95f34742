"""`cambrian-gaze gaze`: look at saved traces. Each action is a module with `build_parser()` and `run(arguments)`,
imported when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from cambrian_gaze.cli.arguments import one_line, run_action

ACTIONS = {
    "view": ("cambrian_gaze.cli.gaze.view", "one HTML page to explore traces in, offline"),
    "render": ("cambrian_gaze.cli.gaze.render", "pictures of a trace for papers: PNG, SVG, PDF, GIF, MP4"),
}
"""Name → module and summary."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one action. Returns the exit status: 2 for what was given wrongly."""
    return run_action("cambrian-gaze gaze", "Look at saved traces:", ACTIONS, argv, failed=2, said=one_line)
