"""The machine that a run is on: cores, processor, GPU, versions. Imports torch only where it is asked about."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "triton", "transformers", "flash-attn")
"""Whose versions decide how fast attention is."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's model name, or the architecture's."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those of `packages` that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe_machine(device: torch.device | str = "cpu", packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Hardware and versions, for the line above a table; the GPU too where `device` is one."""
    import torch

    device = torch.device(device)
    machine = {"cpu": f"{cpu_name()}, {cores()} cores, {torch.get_num_threads()} threads used"}
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        machine["gpu"] = f"{torch.cuda.get_device_name(device)}, {total / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return {**machine, "python": platform.python_version(), **versions(packages)}


def machine_line(machine: Mapping[str, str]) -> str:
    """`describe_machine` as one line."""
    return "; ".join(f"{value}" if name in ("cpu", "gpu") else f"{name} {value}" for name, value in machine.items())
