"""Checkpoints written tensor by tensor: memory holds one tensor at a time, whatever the size of the model.

The file format is safetensors: eight bytes with the length of the header, a JSON header with type, shape and place of
each tensor, then their bytes.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from cambrian_gaze.models.conversion.shards import DTYPES, Shards, tensor_bytes

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Planned(NamedTuple):
    """A tensor to be written, made by `load` when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]

    @classmethod
    def copied(cls, name: str, shards: Shards, source: str) -> Planned:
        """A tensor of another checkpoint, as it is stored there."""
        entry = shards.entries[source]
        return cls(name, entry.shape, entry.dtype, lambda: shards.tensor(source))

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_shards(folder: Path, planned: Sequence[Planned], max_shard_size: int, progress: bool = True) -> list[Path]:
    """Write `model.safetensors`, or shards of at most `max_shard_size` bytes (a larger tensor has one to itself) with
    `model.safetensors.index.json`; returns the weight files."""
    groups: list[list[Planned]] = [[]]
    for tensor in planned:
        if groups[-1] and sum(t.size for t in groups[-1]) + tensor.size > max_shard_size:
            groups.append([])
        groups[-1].append(tensor)
    count = len(groups)
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    names = ["model.safetensors"] if count == 1 else names
    total = sum(tensor.size for tensor in planned)
    with tqdm(total=total, unit="B", unit_scale=True, desc="writing weights", disable=not progress) as bar:
        for name, group in zip(names, groups, strict=True):
            write_file(folder / name, group, bar.update)
    if count > 1:
        weight_map = {tensor.name: name for name, group in zip(names, groups, strict=True) for tensor in group}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return [folder / name for name in names]


def write_file(path: Path, planned: Sequence[Planned], written: Callable[[int], object] = lambda size: None) -> None:
    """Write one safetensors file; `written` is told the bytes of each tensor."""
    # The widest types first: every tensor then starts at a multiple of its element's size.
    planned = sorted(planned, key=lambda tensor: -tensor.dtype.itemsize)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for tensor in planned:
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + tensor.size],
        }
        place += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in planned:
            value = tensor.load().to(tensor.dtype)
            if tuple(value.shape) != tensor.shape:
                raise ValueError(f"{tensor.name} is {tuple(value.shape)}, but {tensor.shape} was announced")
            file.write(tensor_bytes(value))
            written(tensor.size)
        file.flush()
        os.fsync(file.fileno())
