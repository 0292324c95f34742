"""The process group of ranks on CPUs, with its timeout."""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist


def start_cpu_group(backend: str | None, timeout_s: float) -> None:
    """Join the group of the ranks that a launcher has started, over `backend` (default: gloo). Transformers, which
    would join it later, gives a group of CPUs no timeout: a host that is gone without a word would hold up the others
    for half an hour. Does nothing without a launcher, or where there is a group already."""
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group(backend or "gloo", timeout=timedelta(seconds=timeout_s))
