"""Fingerprints of weights and files, for journal keys: an answer is reused only for the very same model and picture."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def weights_fingerprint(model: nn.Module) -> str:
    """Hex digest of every parameter and buffer of the state dict: names, types, shapes and values."""
    from cambrian_gaze.models.shards import fingerprint

    return fingerprint(model.state_dict())


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
