"""Attention: one contract (`registry.attend`), several backends that declare what they can do, decoding, and benches.

The names below are loaded when first used, so that `cambrian-gaze bench … --help` does not wait for torch.
"""

from __future__ import annotations

import importlib

_HOME = {
    "BACKENDS": "registry",
    "Backend": "registry",
    "GazeContext": "context",
    "GazeRecorder": "record",
    "GazeStats": "record",
    "Heads": "choice.trial",
    "SequenceGroup": "sequence",
    "SequenceShards": "sequence",
    "attend": "registry",
    "prepare": "registry",
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
