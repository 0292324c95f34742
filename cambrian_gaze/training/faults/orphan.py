"""A rank whose launcher is gone ends: nobody would restart it, and its output folder is wanted by the next run."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

POLL = 1.0
"""Seconds between two looks at the parent process."""
GRACE = 120.0
"""Seconds that such a rank may take to finish its step and to write a checkpoint."""


def end_with_launcher(poll: float = POLL, grace: float = GRACE) -> None:
    """Watch the process that started this one: once it is gone, ask this process to stop with a checkpoint (SIGTERM),
    and kill it after `grace` seconds."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(poll)
        print(f"the launcher (process {parent}) is gone: this rank stops after its step", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="launcher", daemon=True).start()
