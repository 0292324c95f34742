"""`cambrian-gaze checkpoint`: look at saved models. Each action is a module with `build_parser()` and `run(arguments)`,
imported when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from cambrian_gaze.cli.arguments import run_action

ACTIONS = {
    "ls": ("cambrian_gaze.cli.checkpoint.ls", "the checkpoints of a run: step, size, whole or not, loss, time"),
    "verify": ("cambrian_gaze.cli.checkpoint.verify", "read checkpoints and compare every file with its SHA-256"),
    "export": ("cambrian_gaze.cli.checkpoint.export", "the model of a checkpoint alone, in Hugging Face's format"),
    "show": ("cambrian_gaze.cli.checkpoint.show", "the lineage of a saved model: weights, code, data, parents"),
}
"""Name → module and summary."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one action. Returns the exit status."""
    return run_action("cambrian-gaze checkpoint", "Look at saved models:", ACTIONS, argv, failed=1)
