"""The files of a model's or adapter's folder, looked at before anything loads them: strangers may have written them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

LARGEST_JSON = 64 * 2**20
"""Bytes that a JSON file may have; the largest tokenizers have 20 MB."""
LARGEST_HEADER = 100 * 10**6
"""Bytes of a safetensors header, the limit of the format's own reader."""
LARGEST_TEXT = 64 * 2**20
MOST = {"num_beams": 64, "num_return_sequences": 64, "num_beam_groups": 64, "prompt_lookup_num_tokens": 4096}
"""Settings for `generate` beyond which only memory is spent."""

_OBJECTS = {
    "config.json": ("text_config", "vision_config", "gaze", "quantization_config"),
    "generation_config.json": (),
    "preprocessor_config.json": (),
    "processor_config.json": (),
    "tokenizer_config.json": ("added_tokens_decoder",),
    "special_tokens_map.json": (),
    "tokenizer.json": ("model",),
    "adapter_config.json": (),
    "model.safetensors.index.json": ("weight_map",),
}
"""Files of one JSON object, and their fields that must be objects where they are there."""


class FolderError(ValueError):
    """A file of a model's folder that is not loaded; the message names it and says what is wrong."""


def check_files(folder: Path | str) -> None:
    """Look at sizes, kinds, JSON and safetensors headers, before transformers opens anything.

    Raises: FolderError for the first file with a fault.
    """
    for path in sorted(Path(folder).iterdir()):
        json_file, weights = path.suffix == ".json", path.suffix == ".safetensors"
        if not (json_file or weights or path.suffix in (".jinja", ".txt", ".model", ".bin")):
            continue
        size = _regular_size(path)
        if path.name in _OBJECTS:
            _check_object(path, _read_json(path, size))
        elif weights:
            _check_header(path, size)
        elif path.suffix != ".bin" and size > LARGEST_TEXT:
            raise FolderError(f"{path} has {size} bytes, more than any such file needs ({LARGEST_TEXT})")


def _regular_size(path: Path) -> int:
    try:
        found = path.stat()
    except OSError as error:
        raise FolderError(f"{path} cannot be opened ({error.strerror}): a link to nothing?") from error
    if not stat.S_ISREG(found.st_mode):
        raise FolderError(f"{path} is no regular file")
    if not os.access(path, os.R_OK):
        raise FolderError(f"{path} may not be read")
    return found.st_size


def _read_json(path: Path, size: int) -> Any:
    if size > LARGEST_JSON:
        raise FolderError(f"{path} has {size} bytes, more than any such file needs ({LARGEST_JSON})")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise FolderError(f"{path} is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} is no JSON ({error})") from error


def _check_object(path: Path, content: Any) -> None:
    if not isinstance(content, dict):
        raise FolderError(f"{path} must hold a JSON object, not {type(content).__name__}")
    for key in _OBJECTS[path.name]:
        if content.get(key) is not None and not isinstance(content[key], dict):
            raise FolderError(f"{path}: {key} must be an object, not {type(content[key]).__name__}")
    if path.name == "config.json" and not isinstance(content.get("model_type", ""), str):
        raise FolderError(f"{path}: model_type must be a text, not {type(content['model_type']).__name__}")
    if path.name == "generation_config.json":
        for key, most in MOST.items():
            value = content.get(key)
            if value is not None and not (type(value) is int and 1 <= value <= most):
                raise FolderError(f"{path}: {key} must be a whole number from 1 to {most}, it is {str(value)[:40]}")
    for name in _shards(path, content):
        if not isinstance(name, str) or Path(name).name != name:
            raise FolderError(f"{path}: weight_map names {str(name)[:80]!r}, which is no file beside it")


def _shards(path: Path, content: dict[str, Any]) -> list[Any]:
    return list((content.get("weight_map") or {}).values()) if path.name.endswith(".index.json") else []


def _check_header(path: Path, size: int) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise FolderError(f"{path} is no safetensors file: its header would have {length} of its {size} bytes")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise FolderError(f"{path} is no safetensors file: its header is no JSON") from error
    if not isinstance(header, dict):
        raise FolderError(f"{path} is no safetensors file: its header is no object")
