"""Optional dependencies, wrapped once: a missing one is reported with the command that installs it."""

from __future__ import annotations

import importlib
from types import ModuleType

# What an extra of pyproject.toml imports as; a test holds the two against each other.
EXTRA_MODULES: dict[str, tuple[str, ...]] = {
    "train": ("deepspeed", "tensorboard"),
    "data": ("datasets", "pyarrow"),
    "video": ("decord",),
    "pyav": ("av",),
    "peft": ("peft",),
    "quant": ("torchao", "bitsandbytes"),
    "lmms": ("lmms_eval",),
    "serve": ("starlette", "uvicorn"),
    "demo": ("gradio",),
    "wandb": ("wandb",),
    "flash": ("flash_attn",),
    "routing": ("pycocotools",),
    "charts": ("matplotlib",),
    "quickstart": ("sklearn",),
    "docs": ("mkdocs", "mkdocstrings"),
}


def require(module: str, extra: str) -> ModuleType:
    """Import `module` (dotted names allowed), which belongs to the optional dependencies `extra`.

    Raises:
        ImportError: the module, or something that it needs, is not installed; names the pip command.
        ValueError: `extra` is none of this project's extras.
    """
    if extra not in EXTRA_MODULES:
        raise ValueError(f"unknown extra {extra!r}; the extras are {', '.join(sorted(EXTRA_MODULES))}")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module!r} could not be imported ({error}); install it with: pip install 'cambrian-gaze[{extra}]'"
        ) from error
