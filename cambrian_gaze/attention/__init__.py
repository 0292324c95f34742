"""Attention: one contract (`registry.attend`), and several backends that declare what they can do and how they decode.

The names below are loaded when first used, so that `cambrian-gaze bench … --help` does not wait for torch.
"""

from __future__ import annotations

import importlib

_HOME = {
    "BACKENDS": "registry",
    "Backend": "backend",
    "GazeContext": "context",
    "GazeRecorder": "record",
    "GazeStats": "record",
    "Heads": "choice.trial",
    "Prepared": "context",
    "SequenceGroup": "sequence",
    "SequenceShards": "sequence",
    "WeightRecorder": "record",
    "attend": "registry",
    "prepare": "registry",
    "register_backend": "registry",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
