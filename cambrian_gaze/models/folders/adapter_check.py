"""The configuration of an adapter from somewhere, checked before peft acts on it: of peft's many options those that a
LoRA of this project needs; the others load code, read more files or change the base's weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.models.folders.folder_check import FolderError, read_object
from cambrian_gaze.models.folders.pattern_probe import takes_too_long

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
LARGEST_RANK = 4096
LONGEST_PATTERN = 1000

_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal"),
    "megatron_config": (),
    "loftq_config": ({},),
    "eva_config": (),
    "corda_config": (),
    "lora_ga_config": (),
    "layer_replication": (),
    "target_parameters": (),
    "arrow_config": (),
}
"""Fields, and what they may hold beside nothing."""
_OF_MODULES = ("target_modules", "exclude_modules")
"""Fields that are names of modules, or one pattern for them."""
_GROUP_REPEATED = re.compile(r"\)\s*[*+?{]")
_REPEATS = re.compile(r"(?<!\\)[*+{]")
_FEW = 3
"""Repeats in a pattern that match no name of a module for long."""
_MANY = 12
"""Repeats in a pattern for modules that is tried out first, see `check_patterns`; published ones have up to 8."""


def is_adapter(folder: Path | str) -> bool:
    """Whether a folder holds an adapter."""
    return (Path(folder) / ADAPTER_CONFIG).is_file()


def refuse_adapter(folder: Path | str) -> None:
    """Raises: ValueError where a folder named as a model holds an adapter: transformers would load the model under it
    with the model's own budget."""
    if is_adapter(folder):
        base = read_object(Path(folder) / ADAPTER_CONFIG).get("base_model_name_or_path") or "BASE"
        raise ValueError(f"{folder} holds an adapter, not a model; give --model {base} --adapter {folder}")


def check_adapter(folder: Path | str) -> None:
    """Raises: FolderError where a folder's adapter is none of safetensors, or asks for what an adapter of this project
    does not have."""
    path, weights = Path(folder) / ADAPTER_CONFIG, Path(folder) / ADAPTER_WEIGHTS
    settings = read_object(path)
    if not weights.is_file():
        raise FolderError(f"{folder} holds no {ADAPTER_WEIGHTS}; pickled weights are not loaded")
    for name, allowed in _PLAIN.items():
        value = settings.get(name)
        if value is not None and not any(type(value) is type(one) and value == one for one in allowed):
            raise FolderError(f"{path}: {name} is {str(value)[:80]!r}, which is not supported")
    ranks, scales = (settings.get(name) or {} for name in ("rank_pattern", "alpha_pattern"))
    for name, patterns in (("rank_pattern", ranks), ("alpha_pattern", scales)):
        if not isinstance(patterns, dict):
            raise FolderError(f"{path}: {name} must be an object, not {type(patterns).__name__}")
    for rank in (settings.get("r"), *ranks.values()):
        if not (type(rank) is int and 1 <= rank <= LARGEST_RANK):
            raise FolderError(f"{path}: the rank must be a whole number from 1 to {LARGEST_RANK}, not {str(rank)[:40]}")
    for scale in (settings.get("lora_alpha"), *scales.values()):
        if isinstance(scale, bool) or not isinstance(scale, int | float):
            raise FolderError(f"{path}: lora_alpha must be a number, not {str(scale)[:40]!r}")
    for pattern in (settings.get("layers_pattern"), settings.get("modules_to_save"), *ranks, *scales):
        for text in pattern if isinstance(pattern, list) else [pattern]:
            _check_pattern(path, text, _FEW)
    for pattern in (settings.get(name) for name in _OF_MODULES):
        for text in pattern if isinstance(pattern, list) else [pattern]:
            _check_pattern(path, text, _MANY)


def check_patterns(folder: Path | str, names: Sequence[str]) -> None:
    """Try out the patterns of a checked adapter on the names of the modules that peft will match them with.

    Raises: FolderError where one takes too long.
    """
    path = Path(folder) / ADAPTER_CONFIG
    settings = read_object(path)
    for text in (settings.get(name) for name in _OF_MODULES):
        if isinstance(text, str) and len(_REPEATS.findall(text)) > _FEW and takes_too_long(text, names):
            raise _too_slow(path, text)


def _too_slow(path: Path, text: str) -> FolderError:
    return FolderError(f"{path}: the pattern {text[:80]!r} may take for ever; give the modules as a list of names")


def _check_pattern(path: Path, text: Any, repeats: int) -> None:
    """A name or regular expression; one with repeated groups, or more than `repeats`, may match for ever."""
    if text is None:
        return
    if not isinstance(text, str) or len(text) > LONGEST_PATTERN:
        raise FolderError(f"{path}: a name of modules must be a text of up to {LONGEST_PATTERN} characters")
    if _GROUP_REPEATED.search(text) or len(_REPEATS.findall(text)) > repeats:
        raise _too_slow(path, text)
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise FolderError(f"{path}: {text[:80]!r} is no pattern of names ({error})") from error
