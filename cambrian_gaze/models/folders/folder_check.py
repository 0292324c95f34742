"""The files of a model's or adapter's folder, looked at before anything loads them: strangers may have written them."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any, Literal

from cambrian_gaze.models.folders.generation_check import fault_of_settings

LARGEST_JSON = 64 * 2**20
"""Bytes that a JSON file may have; the largest tokenizers have 20 MB."""
LARGEST_HEADER = 100 * 10**6
"""Bytes of a safetensors header, the limit of the format's own reader."""
LARGEST_TEXT = 64 * 2**20
SIZES = {
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_hidden_layers": 1024,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 4096,
    "vocab_size": 2**22,
    "image_size": 2**14,
    "patch_size": 2**12,
    "num_channels": 64,
    "num_labels": 2**20,
}
"""Sizes of a model or part that no checkpoint exceeds: only building it, before a weight is read, would take all
memory."""

_OBJECTS = {
    "config.json": ("text_config", "vision_config", "gaze", "quantization_config"),
    "generation_config.json": (),
    "preprocessor_config.json": ("size",),
    "processor_config.json": ("image_processor",),
    "tokenizer_config.json": ("added_tokens_decoder",),
    "special_tokens_map.json": (),
    "added_tokens.json": (),
    "vocab.json": (),
    "tokenizer.json": ("model",),
    "adapter_config.json": (),
    "lineage.json": (),
    "model.safetensors.index.json": ("weight_map",),
    "pytorch_model.bin.index.json": ("weight_map",),
}
"""Files of one JSON object, and their fields that must be objects where they are there."""
_LOADED = (".json", ".safetensors", ".jinja", ".txt", ".model", ".tiktoken", ".bin")
_NOT_OPENED = re.compile(
    r"(?!(pytorch_|adapter_)?model).*\.(safetensors|bin)"
    r"|(?!.*(config|token|vocab|merges|template|processor|index|bpe|dict|spm|emoji|normalizer|lineage)).*\.(json|txt)",
    re.IGNORECASE,
)
"""Names with such endings that neither transformers nor tokenizers nor peft opens: results, logs, an optimizer's state;
weights of other names, but where an index names them."""
_TEMPLATES = "additional_chat_templates"
"""Folder of transformers for templates by name."""
_SOUND: dict[tuple[Any, ...], tuple[str, ...]] = {}
"""JSON files without a fault, by place, size and times → the shards that they name."""
_MOST_SOUND = 1000


class FolderError(ValueError, OSError):
    """A file of a model's folder that is not loaded; the message names it and says what is wrong. An OSError too, as
    transformers raises for a folder that lacks files."""


Copied = Literal["nothing", "rewritten", "as it is"]
"""What becomes of the files that are read: they are loaded; a model is written from them anew; they are copied."""


def check_files(folder: Path | str, copied: Copied = "nothing") -> None:
    """Look at sizes, kinds, JSON and safetensors headers, before transformers opens anything; where nothing is copied,
    of the files that it may open.

    Args:
        copied: what goes into another folder, or to the hub, may not be a link to a file elsewhere, which would take a
            private file along. Links from a snapshot of the hub's cache to its blobs may, and where tensors are
            written anew, weights.

    Raises: FolderError for the first file with a fault.
    """
    folder = Path(folder)
    templates = sorted((folder / _TEMPLATES).iterdir()) if (folder / _TEMPLATES).is_dir() else []
    paths = [*sorted(folder.iterdir()), *templates]
    shards = {name for path in paths if copied == "nothing" for name in _named_shards(path)}
    for path in paths:
        loaded = path.suffix in _LOADED
        if not loaded and (copied == "nothing" or path.is_dir()):
            continue
        if copied == "nothing" and _NOT_OPENED.fullmatch(path.name) and path.name not in shards:
            continue
        size = regular_size(path)
        if copied == "as it is" or (copied == "rewritten" and path.suffix != ".safetensors"):
            _refuse_link_out(path, folder)
        if path.name in _OBJECTS:
            _checked(path)
        elif path.suffix == ".safetensors":
            _check_header(path, size)
        elif loaded and path.suffix != ".bin" and size > LARGEST_TEXT:
            raise FolderError(f"{path} has {size} bytes, more than any such file needs ({LARGEST_TEXT})")


def _named_shards(path: Path) -> tuple[str, ...]:
    return _checked(path) if path.name in _OBJECTS and path.name.endswith(".index.json") else ()


def regular_size(path: Path) -> int:
    """Bytes of a file that can be read to an end. Raises: FolderError for a FIFO, a device, a folder, a dead link."""
    try:
        found = path.stat()
    except OSError as error:
        raise FolderError(f"{path} cannot be opened ({error.strerror}): a link to nothing?") from error
    if not stat.S_ISREG(found.st_mode):
        raise FolderError(f"{path} is no regular file")
    if not os.access(path, os.R_OK):
        raise FolderError(f"{path} may not be read")
    return found.st_size


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model's folder. Raises: FolderError."""
    content = _read_json(path, regular_size(path))
    _check_object(path, content)
    return content


def _refuse_link_out(path: Path, folder: Path) -> None:
    """Folders above `folder` may be links; of the snapshot's own tree only blobs may lie beside it."""
    target, own = path.resolve(), folder.resolve()
    blobs = [above.parent / "blobs" for above in own.parents if above.name == "snapshots"]
    if not any(target.is_relative_to(place) for place in (own, *blobs)):
        raise FolderError(f"{path} is a link to {target}, outside its folder; put the file itself there")


def _checked(path: Path) -> tuple[str, ...]:
    """The shards that a JSON file names, if any. A file is opened several times and read here once, while it stays as
    it is. Raises: FolderError."""
    size, found = regular_size(path), path.stat()
    key = (path.absolute(), found.st_dev, found.st_ino, size, found.st_mtime_ns, found.st_ctime_ns)
    if key not in _SOUND:
        content = _read_json(path, size)
        _check_object(path, content)
        if len(_SOUND) >= _MOST_SOUND:
            _SOUND.clear()
        _SOUND[key] = tuple(_shards(path, content))
    return _SOUND[key]


def _read_json(path: Path, size: int) -> Any:
    if size > LARGEST_JSON:
        raise FolderError(f"{path} has {size} bytes, more than any such file needs ({LARGEST_JSON})")
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_constant)
    except RecursionError as error:
        raise FolderError(f"{path} is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} cannot be read as JSON: {error}") from error


def _constant(name: str) -> float:
    if name == "NaN":
        raise ValueError("NaN is no number")
    return float(name)  # infinite limits stand in published configurations


def _check_object(path: Path, content: Any) -> None:
    if not isinstance(content, dict):
        raise FolderError(f"{path} must hold a JSON object, not {type(content).__name__}")
    for key in _OBJECTS.get(path.name, ()):
        if content.get(key) is not None and not isinstance(content[key], dict):
            raise FolderError(f"{path}: {key} must be an object, not {type(content[key]).__name__}")
    if path.name == "config.json" and not isinstance(content.get("model_type", ""), str):
        raise FolderError(f"{path}: model_type must be a text, not {type(content['model_type']).__name__}")
    if path.name == "config.json":
        for part in (content, content.get("text_config"), content.get("vision_config")):
            _check_numbers(path, part or {})
    if path.name in ("config.json", "generation_config.json") and (fault := fault_of_settings(content)):
        raise FolderError(f"{path}: {fault}")
    for name in _shards(path, content):
        if not isinstance(name, str) or Path(name).name != name:
            raise FolderError(f"{path} names files outside its folder: {str(name)[:80]!r}")


def _check_numbers(path: Path, content: dict[str, Any]) -> None:
    for key in ("attn_implementation", "_attn_implementation"):
        if "/" in str(content.get(key)):
            raise FolderError(f"{path}: {key} names code of the hub ({str(content[key])[:80]}), which is not loaded")
    for key, most in SIZES.items():
        value = content.get(key)
        if value is None or isinstance(value, list):  # a list: one a layer, or a side
            continue
        if not (type(value) is int and (1 <= value <= most or (value == 0 and key == "num_labels"))):
            raise FolderError(f"{path}: {key} must be a whole number from 1 to {most}, it is {str(value)[:40]}")


def _shards(path: Path, content: dict[str, Any]) -> list[Any]:
    return list((content.get("weight_map") or {}).values()) if path.name.endswith(".index.json") else []


def _check_header(path: Path, size: int) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            sizes = f"its header would have {length} of its {size} bytes"
            raise FolderError(f"{path} cannot be read as safetensors: {sizes}")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise FolderError(f"{path} cannot be read as safetensors: its header is no JSON") from error
    if not isinstance(header, dict):
        raise FolderError(f"{path} cannot be read as safetensors: its header is no object")
