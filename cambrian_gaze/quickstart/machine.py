"""What the run ran on, for `results.json`."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from cambrian_gaze.attention.measure import cores, cpu_name

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
        "hardware": {"cpu": cpu_name(), "cores": cores(), "gpu": gpu, "system": platform.platform()},
        "versions": versions,
    }
