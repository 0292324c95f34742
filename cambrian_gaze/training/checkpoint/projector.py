"""The export of stage 1: `mm_projector.safetensors`, the projector and the context tokens with what they fit.

Keys are the parameters' names in the model, so Cambrian users find `model.mm_projector.0.weight` where they expect it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cambrian_gaze import __version__
from cambrian_gaze.files import replacing
from cambrian_gaze.models.conversion.shards import fingerprint
from cambrian_gaze.models.folders.folder_check import regular_size
from cambrian_gaze.training.optimizer import CONTEXT, PROJECTOR, module_of

EXPORT_NAME = "mm_projector.safetensors"
METADATA = "cambrian_gaze"
"""Key of the facts in the file's metadata."""

MUST_AGREE = (
    *("mm_projector_type", "mm_conv_position", "vision_hidden_size", "vision_layers", "vision_feature_layer"),
    *("image_size", "patch_size"),
)
"""Facts without which the projector reads other features than those it was trained on, whatever the shapes say."""

DECODER = ("decoder", "decoder_layers")
"""Facts whose difference is said and no more: another decoder of the same width may be meant."""


def export_projector(model: nn.Module, path: Path | str, **facts: Any) -> Path:
    """Write projector and context tokens of `model`, with `facts`, its configuration and the sizes they fit."""
    tensors = {name: p.detach().cpu().contiguous().clone() for name, p in _adapter_parameters(model).items()}
    return write_export(tensors, path, {**_fits(model), "config": model.config.to_diff_dict(), **facts})


def write_export(tensors: dict[str, Tensor], path: Path | str, facts: dict[str, Any]) -> Path:
    """Write an export; `facts`, the versions at work and a fingerprint of the tensors go into the file's metadata."""
    path = Path(path)
    versions = {"cambrian_gaze": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    facts = {**facts, "versions": versions, "fingerprint": fingerprint(tensors)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", METADATA: json.dumps(facts, default=str)})
    return path


def read_export(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of an export.

    Raises: ValueError where it is torn, something else, or not what its fingerprint says.
    """
    try:
        regular_size(Path(path))
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            facts = dict(json.loads((file.metadata() or {}).get(METADATA, "{}")))
        expected = facts.get("fingerprint")
        if not isinstance(expected, str | None):
            raise ValueError(f"its fingerprint is no text but {type(expected).__name__}")
    except Exception as error:
        raise ValueError(f"pretrain_mm_mlp_adapter {path} cannot be read as safetensors: {error}") from error
    if expected is not None and expected != fingerprint(tensors):
        raise ValueError(
            f"{path} has the fingerprint {fingerprint(tensors)[:16]}…, not {expected[:16]}…: it was damaged or changed "
            "after it was written; take the original"
        )
    return tensors, facts


def load_projector(model: nn.Module, path: Path | str) -> list[str]:
    """Copy an export into `model`.

    A model without context tokens (a dense baseline) leaves those of the file alone; a model with context tokens keeps
    its own fresh ones where the file has none. Both are said in the messages returned.

    Raises: ValueError where the file is torn or changed, and where it does not fit: naming every difference in names,
        shapes, projector and tower.
    """
    tensors, facts = read_export(path)
    own = _adapter_parameters(model)
    messages = [] if "fingerprint" in facts else [f"{path} carries no fingerprint: its content was not verified"]
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
    here = _fits(model)
    others = {
        key: f"{key} is {facts[key]!r} in the file and {value!r} here"
        for key, value in here.items()
        if key in facts and facts[key] != value
    }
    if differences or any(key in others for key in MUST_AGREE):
        raise ValueError(f"{path} does not fit the model: " + "; ".join(sorted([*differences, *others.values()])))
    messages += [f"{path} was trained with another decoder: {text}" for key, text in others.items() if key in DECODER]
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    return messages


def _adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if module_of(name) in (PROJECTOR, CONTEXT)}


def _context_names(names: Any) -> set[str]:
    return {name for name in names if module_of(name) == CONTEXT}


def _fits(model: nn.Module) -> dict[str, Any]:
    """What an export must find again."""
    config = model.config
    vision, text = config.vision_config, config.get_text_config()
    return {
        "mm_projector_type": config.mm_projector_type,
        "mm_conv_position": None if config.mm_projector_type == "mlp2x_gelu" else config.mm_conv_position,
        "vision_hidden_size": vision.hidden_size,
        "vision_layers": vision.num_hidden_layers,
        "vision_feature_layer": config.vision_feature_layer,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_size": text.hidden_size,
        "decoder": text.model_type,
        "decoder_layers": text.num_hidden_layers,
        "num_context_tokens": sum(len(p) for n, p in _adapter_parameters(model).items() if module_of(n) == CONTEXT),
    }
