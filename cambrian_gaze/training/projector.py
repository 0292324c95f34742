"""The export of stage 1: `mm_projector.safetensors`, the projector and the context tokens with what they fit.

Keys are the parameters' names in the model, so Cambrian users find `model.mm_projector.0.weight` where they expect it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from cambrian_gaze.training.optimizer import CONTEXT, PROJECTOR, module_of

EXPORT_NAME = "mm_projector.safetensors"


def export_projector(model: nn.Module, path: Path | str, **facts: Any) -> Path:
    """Write projector and context tokens of `model`; `facts` and the sizes they fit go into the file's metadata."""
    path = Path(path)
    tensors = {name: p.detach().cpu().contiguous().clone() for name, p in _adapter_parameters(model).items()}
    metadata = {"format": "pt", "cambrian_gaze": json.dumps({**_fits(model), **facts})}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, partial, metadata=metadata)
    os.replace(partial, path)
    return path


def load_projector(model: nn.Module, path: Path | str) -> list[str]:
    """Copy an export into `model`.

    A model without context tokens (a dense baseline) leaves those of the file alone; a model with context tokens keeps
    its own fresh ones where the file has none. Both are said in the messages returned.

    Raises: ValueError naming every difference in names, shapes and sizes.
    """
    path = Path(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = json.loads((file.metadata() or {}).get("cambrian_gaze", "{}"))
    except Exception as error:
        raise ValueError(f"pretrain_mm_mlp_adapter {path} cannot be read as safetensors: {error}") from error
    own = _adapter_parameters(model)
    messages = []
    for names, text in (
        (_context_names(tensors) - own.keys(), "holds context tokens, the model has none (|C|=0): they are left out"),
        (_context_names(own) - tensors.keys(), "holds no context tokens: the model's stay as initialised"),
    ):
        if names:
            messages.append(f"{path} {text}")
            tensors = {name: t for name, t in tensors.items() if name not in names}
            own = {name: p for name, p in own.items() if name not in names}
    differences = [f"{name} is missing in the file" for name in own.keys() - tensors.keys()]
    differences += [f"{name} is not in the model" for name in tensors.keys() - own.keys()]
    differences += [
        f"{name} is {tuple(tensors[name].shape)} in the file and {tuple(own[name].shape)} in the model"
        for name in own.keys() & tensors.keys()
        if tensors[name].shape != own[name].shape
    ]
    if differences:
        for key, own_value in _fits(model).items():
            if metadata.get(key, own_value) != own_value:
                differences.append(f"{key} is {metadata[key]!r} in the file and {own_value!r} here")
        raise ValueError(f"{path} does not fit the model: " + "; ".join(sorted(differences)))
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    return messages


def _adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if module_of(name) in (PROJECTOR, CONTEXT)}


def _context_names(names: Any) -> set[str]:
    return {name for name in names if module_of(name) == CONTEXT}


def _fits(model: nn.Module) -> dict[str, Any]:
    config = model.config
    return {
        "mm_projector_type": getattr(config, "mm_projector_type", None),
        "vision_hidden_size": config.vision_config.hidden_size,
        "hidden_size": config.get_text_config().hidden_size,
        "num_context_tokens": sum(len(p) for n, p in _adapter_parameters(model).items() if module_of(n) == CONTEXT),
    }
