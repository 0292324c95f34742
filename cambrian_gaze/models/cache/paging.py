"""`PagedGazeCache`: visual pages in host memory, the hot ones on the device, so that a context whose keys and values do
not fit the device still decodes. The outputs are those of `GazeCache`.

Descriptors, text and context stay on the device. Each layer that routes has an equal share of the pool. A decoding
step asks for its chosen pages; those not in the pool are copied in, over the ones not used for longest. The pages that
the last query of a prompt looked at are fetched ahead, since the next query mostly looks there again. What reads every
page (a later turn, dense layers, the "oracle" descriptor) brings one layer's pages to the device for as long as that
layer runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import TokenLayout
from cambrian_gaze.models.cache.cache import GazeCache
from cambrian_gaze.models.cache.layer import GazeCacheLayer, PageStore, StorePlan
from cambrian_gaze.models.cache.page_pool import HostStore, PagePool, PagingCounts

_UNITS = {"": 1, "b": 1} | {f"{p}{i}b": (1024 if i else 1000) ** n for n, p in enumerate("kmgt", 1) for i in ("", "i")}


def parse_size(size: int | str) -> int:
    """Bytes of "2GiB", "500 MB" or an int. Raises ValueError for anything else, and for less than one byte."""
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", size.strip().lower()) if isinstance(size, str) else None
    if match and match[2] in _UNITS and (total := int(float(match[1]) * _UNITS[match[2]])) > 0:
        return total
    raise ValueError(f"{size!r} is no size of memory; give a number of bytes, or a text such as '2GiB' or '500 MB'")


@dataclass(frozen=True)
class PagingStats:
    """What paging did since the cache was made. A page is one region of one KV head, layer and row."""

    hits: int
    """Pages that a decoding step chose and found in the pool, those fetched ahead included."""

    misses: int
    """Pages that a decoding step had to wait for."""

    prefetched: int
    """Pages fetched ahead."""

    evictions: int
    """Pages that gave up their slot."""

    bytes_to_device: int
    """All of it: misses, pages fetched ahead, and whole layers for calls that read every page."""

    bytes_to_host: int
    """Pages written by prefill and appended frames."""

    pool_pages: int
    """Slots of the pool, over all layers."""

    pages: int
    """Pages in host memory, over all layers."""

    @property
    def hit_rate(self) -> float:
        """Share of the chosen pages that were in the pool; 0 where no step has chosen any."""
        return self.hits / max(1, self.hits + self.misses)

    def __str__(self) -> str:
        share = self.pool_pages / max(1, self.pages)
        return (
            f"paging: {self.hit_rate:.1%} of {self.hits + self.misses} page reads hit the pool of {self.pool_pages} "
            f"pages ({share:.1%} of {self.pages}); {self.bytes_to_device / 2**20:.1f} MiB to the device, "
            f"{self.evictions} evictions, {self.prefetched} pages fetched ahead"
        )


class PagedCacheLayer(GazeCacheLayer):
    """One decoder layer whose pages live in host memory."""

    cache: PagedGazeCache
    resident = False

    def __init__(self, cache: PagedGazeCache | None = None, **kwargs):
        super().__init__(cache, **kwargs)
        self.pool: PagePool | None = None

    def new_store(self, like: Tensor) -> PageStore:
        return HostStore(like, self.cache.counts)

    @property
    def page_keys(self) -> Tensor:
        """[B, G, R, m, D], all of them brought to the device."""
        return self._all_pages("keys")

    @property
    def page_values(self) -> Tensor:
        """[B, G, R, m, D], all of them brought to the device."""
        return self._all_pages("values")

    def _all_pages(self, name: str) -> Tensor:
        pages = self.stores[name].all_pages(self.device)
        rows = self.cache.row_of
        return pages if rows is None else pages.index_select(0, rows.to(self.device))

    def _store_pages(self, keys: Tensor, values: Tensor, plan: StorePlan) -> None:
        super()._store_pages(keys, values, plan)
        if self.pool is None:
            return
        shape = self.stores["keys"].data.shape
        if self.pool.shape != shape:
            self.pool = None  # pages are numbered otherwise now, or hold more slots
        else:
            first = torch.arange(shape[:2].numel())[:, None] * shape[2]
            self.pool.forget((first + plan.pages.touched.cpu()).flatten())

    def gather_pages(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, G, N, m, D] of the regions int64 [B, G, N]; of -1, some finite page.

        Raises: ValueError where the pool is too small for the pages of one step.
        """
        pages = self._numbers(chosen)
        wanted = pages[pages >= 0].unique()
        pool = self._ready_pool()
        if pool is None or len(wanted) > pool.slots:
            self._refuse(len(wanted), chosen)
        pool.fetch(wanted, self.cache.counts)
        slots = torch.where(pages >= 0, pool.slot_of[pages.clamp(min=0)], 0).flatten().to(chosen.device)
        keys, values = (b.index_select(0, slots).view(*chosen.shape, *b.shape[1:]) for b in pool.buffers)
        return keys, values

    def gather_keys(self, chosen: Tensor) -> Tensor:
        """Keys [B, G, N, m, D] of regions int64 [B, G, N] that `gather_pages` has just brought into the pool."""
        slots, keys = self.pool.slot_of[self._numbers(chosen).clamp(min=0)], self.pool.buffers[0]
        found = keys.index_select(0, slots.clamp(min=0).flatten().to(keys.device))
        return found.view(*chosen.shape, *keys.shape[1:])

    def prefetch(self, chosen: Tensor) -> None:
        """Fetch the regions int64 [B, H or G, K] that were looked at last, as many as the pool takes."""
        pool = self._ready_pool()
        if pool is not None and chosen.numel():
            pages = self._numbers(chosen.reshape(chosen.shape[0], self.text_context_keys.shape[1], -1))
            pool.fetch(pages[pages >= 0].unique()[: pool.slots], self.cache.counts, ahead=True)

    def _numbers(self, chosen: Tensor) -> Tensor:
        """Page numbers of the regions int64 [B, G, N], on the host; -1 stays."""
        _, groups, room = self.stores["keys"].data.shape[:3]
        chosen, rows = chosen.cpu(), self.cache.row_of
        rows = torch.arange(chosen.shape[0]) if rows is None else rows
        pages = (rows[:, None, None] * groups + torch.arange(groups)[:, None]) * room + chosen
        return torch.where(chosen < 0, -1, pages)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page, keys and values."""
        return sum(s.data[0, 0, :1].numel() * s.data.element_size() for s in self._kept)

    @property
    def _kept(self) -> tuple[HostStore, HostStore]:
        return self.stores["keys"], self.stores["values"]

    def _ready_pool(self) -> PagePool | None:
        """The pool, made when it is first asked for; None where the share does not hold a page."""
        if self.pool is None:
            pages = self.stores["keys"].data.shape[:3].numel()
            slots = min(self.cache.layer_bytes // self.page_bytes, pages) if pages else 0
            self.pool = PagePool(self._kept, slots, self.device) if slots else None
        return self.pool

    def _refuse(self, wanted: int, chosen: Tensor) -> None:
        pages = self.stores["keys"].data.shape[:3].numel()
        unit, most = self.page_bytes * self.cache.pools, min(chosen.numel(), pages)
        raise ValueError(
            f"gaze_offload={self.cache.pool_bytes} bytes hold {self.cache.layer_bytes // self.page_bytes} pages per "
            f"layer, but one decoding step chose {wanted}: give at least {wanted * unit} bytes for this step; "
            f"{most * unit} bytes are enough whatever a step chooses"
        )

    def _page_rows(self, index: Tensor) -> None:
        """Pages stay where they are: the cache remembers whose they are."""

    def settle_rows(self, rows: Tensor) -> None:
        """Give every row pages of its own, before new visual tokens are written."""
        super()._page_rows(rows)
        self.pool = None


class PagedGazeCache(GazeCache):
    """A `GazeCache` whose visual pages live in host memory; for `cache=` where one is wanted at hand,
    otherwise `generate(..., gaze_offload="2GiB")` makes it.

    Args:
        config: as for `GazeCache`.
        pool: device memory for hot pages, over all layers: "2GiB" or bytes.
        num_layers: decoder layers.
    """

    def __init__(self, config: GazeConfig, pool: int | str, num_layers: int):
        self.pool_bytes = parse_size(pool)
        self.pools = max(1, sum(config.routes(layer) for layer in range(num_layers)))
        """Layers that share the pool."""
        self.layer_bytes = self.pool_bytes // self.pools
        super().__init__(config)

    def reset(self) -> None:
        """Forget everything, the counts too."""
        self.counts = PagingCounts()
        self.row_of: Tensor | None = None
        """int64 [B] on the host: whose pages a row reads; None: its own. Beams share their pages."""
        super().reset()

    def new_layer(self) -> PagedCacheLayer:
        """The next decoder layer's part."""
        return PagedCacheLayer(self)

    @torch.compiler.disable
    def extend(self, layout: TokenLayout, rotary: tuple[Tensor, Tensor] | None = None) -> None:
        super().extend(layout, rotary)
        if self.plan.pages is not None and self.row_of is not None:
            for layer in self.layers:
                layer.settle_rows(self.row_of)
            self.row_of = None

    def _select_rows(self, index: Tensor) -> None:
        if self.last is not None:
            own = torch.arange(self.last.shape[0]) if self.row_of is None else self.row_of
            self.row_of = own[index.cpu()]
        super()._select_rows(index)

    def paging_stats(self) -> PagingStats:
        """Hits, bytes and evictions so far, over all layers."""
        pools = [layer.pool for layer in self.layers if layer.pool is not None]
        pages = 0
        if self.page_layout is not None and self.layers:
            regions = int((self.page_layout.region_size > 0).sum())
            pages = regions * sum(layer.text_context_keys.shape[1] for layer in self.layers)
        return PagingStats(**vars(self.counts), pool_pages=sum(pool.slots for pool in pools), pages=pages)
