"""Start a run: `cambrian-gaze train CONFIG.yaml [--nproc_per_node N] [--key value …]`. torch is imported only once the
ranks have started."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from cambrian_gaze.training.config.flags import asks_for
from cambrian_gaze.training.config.help import short_help
from cambrian_gaze.training.config.layers import ConfigError
from cambrian_gaze.training.launch.ranks import start_ranks


def main(argv: Sequence[str] | None = None, benchmarks: Any = None) -> int:
    """Run in this process, or replace it by a launcher of several. Returns the exit status.

    `benchmarks`: see `run.main`, an `OpenBenchmarks`.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or asks_for("help", argv):
        print(short_help())
        return 0 if argv else 2
    try:
        argv = start_ranks(argv)
    except ConfigError as error:
        print(f"cambrian-gaze train: {error}", file=sys.stderr)
        return 2
    from cambrian_gaze.training.run import main as run

    return run(argv, benchmarks=benchmarks)


if __name__ == "__main__":
    sys.exit(main())
