"""Buffers kept from step to step: on a CPU a fresh large allocation costs several times the attention that fills it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Workspace:
    """Scratch tensors by name, dtype and device. One layer at a time writes and reads them, so that all layers of a
    cache share one workspace; nothing in it outlives the call that asked for it, so that rows may be reordered."""

    def __init__(self) -> None:
        self._buffers: dict[tuple, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A contiguous tensor with any content; the last one of that name is given up."""
        size, key = math.prod(shape), (name, dtype, device)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            # A quarter more than asked for: text grows by a column per step, and unions differ from layer to layer.
            buffer = self._buffers[key] = torch.empty(size + size // 4, dtype=dtype, device=device)
        return buffer[:size].view(shape)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def __deepcopy__(self, memo: dict) -> Workspace:
        """A copied cache starts with an empty workspace."""
        return Workspace()
