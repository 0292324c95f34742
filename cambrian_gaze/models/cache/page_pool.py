"""Pages in host memory, and the pool of hot ones on the device. One of each per decoder layer.

Shapes: B rows, G KV heads, R regions (with room for more), C touched regions, m slots per region, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cambrian_gaze.models.cache.layer import PageStore


@dataclass
class PagingCounts:
    """Running counts over all layers of a cache."""

    hits: int = 0
    misses: int = 0
    prefetched: int = 0
    evictions: int = 0
    bytes_to_device: int = 0
    bytes_to_host: int = 0


class HostStore(PageStore):
    """Pages [B, G, R, m, D] in host memory, pinned where the decoder runs on CUDA."""

    def __init__(self, like: Tensor, counts: PagingCounts) -> None:
        self.counts = counts
        self.filled = 0
        """Regions written so far; the others are known to be zero and are not read."""
        self._pending: torch.cuda.Event | None = None
        self._pinned = like.is_cuda
        super().__init__(like)

    def _room(self, like: Tensor, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=like.dtype, pin_memory=self._pinned)

    def wait(self) -> None:
        """Until what was written has arrived."""
        if self._pending is not None:
            self._pending.synchronize()
            self._pending = None

    def grow(self, regions: int, slots: int) -> None:
        self.wait()
        super().grow(regions, slots)

    def read(self, touched: Tensor, device: torch.device) -> Tensor:
        self.wait()
        batch, groups, _, slots, dim = self.data.shape
        block = torch.zeros((batch, groups, len(touched), slots, dim), dtype=self.data.dtype, device=device)
        touched = touched.cpu()
        old = (touched < self.filled).nonzero().flatten()
        if len(old):
            part = self.data.index_select(2, touched[old])
            block.index_copy_(2, old.to(device), part.to(device))
            self.counts.bytes_to_device += part.nbytes
        return block

    def write(self, touched: Tensor, block: Tensor) -> None:
        self.wait()
        self.filled = self.regions
        self.counts.bytes_to_host += block.nbytes
        if block.shape == self.data.shape:
            self.data.copy_(block, non_blocking=True)
            if block.is_cuda:
                self._pending = torch.cuda.Event()
                self._pending.record(torch.cuda.current_stream(block.device))
        else:
            self.data.index_copy_(2, touched.cpu(), block.cpu())

    def rows(self, index: Tensor) -> None:
        self.wait()
        batch = len(index)
        old, self.data = self.data, self._room(self.data, batch, *self.data.shape[1:])
        torch.index_select(old, 0, index.cpu(), out=self.data)

    def all_pages(self, device: torch.device) -> Tensor:
        """[B, G, R, m, D] on the device."""
        self.wait()
        self.counts.bytes_to_device += self.pages.nbytes
        return self.pages.to(device, non_blocking=True)

    def staged(self, pages: Tensor) -> Tensor:
        """Some pages [N, m, D] by their number (b·G + g)·R + r, side by side so that one copy moves them all."""
        self.wait()
        slots, dim = self.data.shape[3:]
        out = torch.empty((len(pages), slots * dim), dtype=self.data.dtype, pin_memory=self._pinned)
        torch.index_select(self.data.view(-1, slots * dim), 0, pages, out=out)
        return out.view(-1, slots, dim)


class PagePool:
    """Slots on the device for the pages used last. Pages are numbered (b·G + g)·R + r."""

    def __init__(self, stores: tuple[HostStore, HostStore], slots: int, device: torch.device) -> None:
        self.stores = stores
        self.shape = stores[0].data.shape
        self.slots = slots
        self.buffers = [torch.zeros((slots, *s.data.shape[3:]), dtype=s.data.dtype, device=device) for s in stores]
        """Keys and values [slots, m, D]."""
        self.slot_of = torch.full((self.shape[:3].numel(),), -1, dtype=torch.int64)
        """Page table: slot of each page, -1 where it is in host memory alone."""
        self._page_in = torch.full((slots,), -1, dtype=torch.int64)
        self._used = torch.zeros(slots, dtype=torch.int64)
        self._clock = 0
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ahead = False
        if self._side is not None:
            for buffer in self.buffers:
                buffer.record_stream(self._side)

    def fetch(self, pages: Tensor, counts: PagingCounts, ahead: bool = False) -> None:
        """Bring pages to the device in the place of those not used for longest.

        Args:
            pages: int64, distinct, on the host, at most as many as there are slots.
            ahead: nobody waits for them: on CUDA the copy runs beside the computation.
        """
        if self._ahead and not ahead:
            torch.cuda.current_stream(self._side.device).wait_stream(self._side)
            self._ahead = False
        slots = self.slot_of[pages]
        here = slots >= 0
        self._clock += 1
        self._used[slots[here]] = self._clock
        missing = pages[~here]
        if ahead:
            counts.prefetched += len(missing)
        else:
            counts.hits += len(pages) - len(missing)
            counts.misses += len(missing)
        if not len(missing):
            return
        free = self._used.topk(len(missing), largest=False).indices
        evicted = self._page_in[free]
        evicted = evicted[evicted >= 0]
        counts.evictions += len(evicted)
        self.slot_of[evicted] = -1
        self.slot_of[missing] = free
        self._page_in[free] = missing
        self._used[free] = self._clock
        if ahead and self._side is not None:
            self._side.wait_stream(torch.cuda.current_stream(self._side.device))
            with torch.cuda.stream(self._side):
                self._copy(missing, free, counts)
            self._ahead = True
        else:
            self._copy(missing, free, counts)

    def _copy(self, pages: Tensor, slots: Tensor, counts: PagingCounts) -> None:
        for store, buffer in zip(self.stores, self.buffers, strict=True):
            staged = store.staged(pages)
            counts.bytes_to_device += staged.nbytes
            at = slots.to(buffer.device, non_blocking=True)
            buffer.index_copy_(0, at, staged.to(buffer.device, non_blocking=True))

    def forget(self, pages: Tensor) -> None:
        """Pages that have changed in host memory."""
        slots = self.slot_of[pages]
        slots = slots[slots >= 0]
        self._page_in[slots] = -1
        self._used[slots] = 0
        self.slot_of[pages] = -1
