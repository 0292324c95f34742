"""Cambrian-Gaze: multimodal LLMs with Gaze Attention (arXiv 2605.13080).

`import cambrian_gaze` makes transformers' AutoConfig, AutoModelForImageTextToText and AutoProcessor know the model
type "cambrian_gaze", in whatever order the two are imported, without loading transformers itself. The classes below
are loaded when first used.
"""

from __future__ import annotations

import importlib

from cambrian_gaze import auto_hook, moved

__version__ = "0.1.0"

_HOME = {
    "CambrianGazeConfig": "cambrian_gaze.models.configuration",
    "CambrianGazeForConditionalGeneration": "cambrian_gaze.models.modeling",
    "CambrianGazeProcessor": "cambrian_gaze.models.processing.processor",
    "GazeConfig": "cambrian_gaze.gaze.config",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))


auto_hook.install()
moved.install()
