"""Fingerprints of weights and files, for journal keys: an answer is reused only for the very same model and picture."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_MIB = 1 << 20


def weights_fingerprint(model: nn.Module) -> str:
    """Hex digest of every parameter and buffer of the state dict: names, types, shapes and values."""
    from cambrian_gaze.models.conversion.shards import fingerprint

    return fingerprint(model.state_dict())


def processor_fingerprint(processor: Any) -> str:
    """Hex digest of what makes inputs of messages and pictures: tokenizer, chat template, the checkpoint's own system
    turn, picture settings, grid."""
    digest = hashlib.sha256(processor.tokenizer.backend_tokenizer.to_str().encode())
    pictures = processor.image_processor.to_dict()
    settings = [processor.chat_template, pictures, processor.grid, processor.num_context_tokens]
    # Added only where they say anything, so that answers of before they were known are still found.
    for name, usual in (("system_prompt", ""), ("image_aspect_ratio", "pad")):
        value = getattr(processor, name, None) or usual
        settings += [{name: value}] if value != usual else []
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def file_fingerprint(path: str | Path) -> str:
    """Hex digest of a file's bytes, or of the names and bytes of the files in a folder (the frames of a video)."""
    path = Path(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(path.iterdir()):
            if file.is_file():
                digest.update(f"{file.name} {file_fingerprint(file)}\n".encode())
        return digest.hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def video_fingerprint(path: str | Path) -> str:
    """As `file_fingerprint`, but of a file's size and its first, middle and last MiB: videos are large."""
    path = Path(path)
    size = path.stat().st_size
    if path.is_dir() or size <= 3 * _MIB:
        return file_fingerprint(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for start in (0, size // 2, size - _MIB):
            file.seek(start)
            digest.update(file.read(_MIB))
    return digest.hexdigest()
