"""What the run ran on, for `results.json`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "tokenizers", "scikit-learn")


def describe_machine() -> dict[str, dict[str, Any]]:
    """`hardware` and `versions`."""
    import torch

    from cambrian_gaze import __version__

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    versions = {"cambrian-gaze": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "hardware": {"cpu": _cpu_name(), "cores": _cores(), "gpu": gpu, "system": platform.platform()},
        "versions": versions,
    }


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
