"""Buffers kept from step to step: on a CPU a fresh large allocation costs several times the attention that fills it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Workspace:
    """Scratch tensors of the CPU by name and dtype. One layer at a time writes and reads them, so that all layers of a
    cache share one workspace; nothing in it outlives the call that asked for it, so that rows may be reordered."""

    def __init__(self) -> None:
        self._buffers: dict[tuple, Tensor] = {}
        self._starts: tuple[tuple, Tensor] | None = None

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor with any content; the last one of that name is given up."""
        size, key = math.prod(shape), (name, dtype)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            # A quarter more than asked for: unions differ from layer to layer.
            buffer = self._buffers[key] = torch.empty(size + size // 4, dtype=dtype)
        return buffer[:size].view(shape)

    def starts(self, count: int, step: int, repeats: int) -> Tensor:
        """int64 [count · repeats, 1]: 0, step, 2·step, …, each `repeats` times. For reading only: the last is kept."""
        key = count, step, repeats
        if self._starts is None or self._starts[0] != key:
            self._starts = key, torch.arange(0, count * step, step).repeat_interleave(repeats)[:, None]
        return self._starts[1]

    @property
    def nbytes(self) -> int:
        """Bytes held in buffers."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def __deepcopy__(self, memo: dict) -> Workspace:
        """A copied cache starts with an empty workspace."""
        return Workspace()
