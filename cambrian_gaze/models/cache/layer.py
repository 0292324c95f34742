"""One decoder layer of a `GazeCache`: pages, descriptors, and text and context columns.

Shapes: B rows, G KV heads, R regions, m slots per region, C touched regions, T text and context columns, S new tokens,
N chosen pages per KV head, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from cambrian_gaze.attention.rotary import unrotate
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.descriptors import describe, descriptor_named


@dataclass
class StorePlan:
    """Where the new tokens of one forward call go, the same in every layer."""

    pages: PagePlan | None
    """Places of the new visual tokens; None: no new visual token and no new region."""

    flat_source: Tensor
    """int64 [B, T_new]: new token of each new text or context column, -1 for an empty column."""

    rotary: tuple[Tensor, Tensor] | None
    """cos and sin of the new tokens, where descriptors are of keys before RoPE."""


@dataclass
class PagePlan:
    """Places of the new visual tokens. Only the regions they touch are read, written and described."""

    regions: int
    """R after this call."""

    slots: int
    """m after this call."""

    touched: Tensor
    """int64 [C]: regions that get a token in some row, rising."""

    row: Tensor
    """int64 [tokens]: row of each new visual token."""

    token: Tensor
    """int64 [tokens]: its place among the call's S tokens."""

    at: Tensor
    """int64 [tokens]: its region, as a place in `touched`."""

    slot: Tensor
    """int64 [tokens]: its slot in the region."""

    filled: Tensor
    """int64 [B, C·m]: place in `touched` of each slot that holds a token after this call, else -1."""


class Owner(Protocol):
    """What a layer asks of the cache that it belongs to."""

    config: GazeConfig
    plan: StorePlan | None
    """Of this call's tokens; None before the first."""
    length: int
    """Tokens stored, padding included."""


class PageStore:
    """Pages [B, G, R, m, D] that grow in place: the first call's fit exactly, later growth doubles the room."""

    def __init__(self, like: Tensor) -> None:
        batch, groups, _, dim = like.shape
        self.regions = 0
        self.data = self._room(like, batch, groups, 0, 1, dim)

    def _room(self, like: Tensor, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    @property
    def pages(self) -> Tensor:
        """[B, G, R, m, D]."""
        return self.data[:, :, : self.regions]

    def grow(self, regions: int, slots: int) -> None:
        """Make room for R regions of m slots; what is there stays."""
        batch, groups, room, old_slots, dim = self.data.shape
        if regions > room or slots > old_slots:
            room = regions if not self.regions or regions <= room else max(regions, 2 * room)
            old, self.data = self.data, self._room(self.data, batch, groups, room, slots, dim)
            self.data[:, :, : self.regions, :old_slots] = old[:, :, : self.regions]
        self.regions = regions

    def read(self, touched: Tensor, device: torch.device) -> Tensor:
        """Pages [B, G, C, m, D] of the regions int64 [C]."""
        return self.data.index_select(2, touched)

    def write(self, touched: Tensor, block: Tensor) -> None:
        """Inverse of `read`."""
        if block.shape == self.data.shape:
            self.data = block
        else:
            self.data.index_copy_(2, touched, block)

    def rows(self, index: Tensor) -> None:
        """Keep, repeat or reorder rows."""
        self.data = self.data.index_select(0, index.to(self.data.device))


class GazeCacheLayer(CacheLayerMixin):
    """One decoder layer's pages, descriptors, and text and context columns, all on the decoder's device."""

    is_croppable = True
    supports_early_init = False
    resident = True

    def __init__(self, cache: Owner | None = None, **kwargs):
        super().__init__(**kwargs)
        self.cache = cache
        self.stores: dict[str, PageStore] = {}
        """"keys", "values", and "bare" (keys before RoPE) where descriptors are of those."""
        self.descriptors: Tensor | None = None
        self._text_context_keys = self._text_context_values = None
        self._columns = 0

    @property
    def page_keys(self) -> Tensor:
        """[B, G, R, m, D]."""
        return self.stores["keys"].pages

    @property
    def page_values(self) -> Tensor:
        """[B, G, R, m, D]."""
        return self.stores["values"].pages

    @property
    def text_context_keys(self) -> Tensor:
        """[B, G, T, D]."""
        return self._text_context_keys[:, :, : self._columns]

    @property
    def text_context_values(self) -> Tensor:
        """[B, G, T, D]."""
        return self._text_context_values[:, :, : self._columns]

    def gather_pages(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, G, N, m, D] of the regions int64 [B, G, N]; of -1, some finite page."""
        keys, values, room = self.page_rows()
        first = torch.arange(chosen.shape[:2].numel(), device=chosen.device).view(*chosen.shape[:2], 1) * room
        at = (chosen.clamp(min=0) + first).flatten()
        found = keys.index_select(0, at), values.index_select(0, at)
        pages = self.page_keys, self.page_values
        keys, values = (x.view(*chosen.shape, *p.shape[3:]) for x, p in zip(found, pages, strict=True))
        return keys, values

    def gather_keys(self, chosen: Tensor) -> Tensor:
        """Keys [B, G, N, m, D] of the regions int64 [B, G, N]; of -1, some finite page."""
        data = self.stores["keys"].data
        first = torch.arange(chosen.shape[:2].numel(), device=chosen.device).view(*chosen.shape[:2], 1) * data.shape[2]
        found = data.flatten(0, 2).index_select(0, (chosen.clamp(min=0) + first).flatten())
        return found.view(*chosen.shape, *data.shape[3:])

    def page_rows(self) -> tuple[Tensor, Tensor, int]:
        """Keys and values as [B·G·room, m·D], and room: page r of row b and KV head g is at (b·G + g)·room + r."""
        keys, values = (self.stores[name].data for name in ("keys", "values"))
        room, slots, dim = keys.shape[2:]
        return keys.view(-1, slots * dim), values.view(-1, slots * dim), room

    def new_store(self, like: Tensor) -> PageStore:
        """Where pages of keys or values like [B, G, S, D] live."""
        return PageStore(like)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, groups, _, dim = key_states.shape
        self.dtype, self.device = key_states.dtype, key_states.device
        self.stores = {"keys": self.new_store(key_states), "values": self.new_store(value_states)}
        self._text_context_keys = key_states.new_zeros(batch, groups, 0, dim)
        self._text_context_values = value_states.new_zeros(batch, groups, 0, value_states.shape[-1])
        self._columns = 0
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Store [B, G, S, D] by the plan of `GazeCache.extend`; return them as they are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        plan = self.cache.plan
        if plan is None:
            raise ValueError("GazeCache.update was called before GazeCache.extend gave it the layout of the new tokens")
        if plan.pages is not None:
            self._store_pages(key_states, value_states, plan)
        self._append(key_states, value_states, plan.flat_source)
        return key_states, value_states

    def _store_pages(self, keys: Tensor, values: Tensor, plan: StorePlan) -> None:
        config, places = self.cache.config, plan.pages
        described = self._write("keys", keys, places)
        self._write("values", values, places)
        if descriptor_named(config.descriptor).needs_keys:
            return
        if config.descriptor_keys == "pre_rope":
            if "bare" not in self.stores:
                self.stores["bare"] = self.new_store(keys)
            described = self._write("bare", unrotate(keys, *plan.rotary), places)
        new = describe(described.flatten(2, 3), places.filled, len(places.touched), config.descriptor)
        old = self.descriptors
        if old is None or old.shape[2] < places.regions:
            self.descriptors = new.new_zeros(*new.shape[:2], places.regions, new.shape[-1])
            if old is not None:
                self.descriptors[:, :, : old.shape[2]] = old
        self.descriptors.index_copy_(2, places.touched, new)

    def _write(self, name: str, new: Tensor, places: PagePlan) -> Tensor:
        """Put new tokens into their slots; the touched pages [B, G, C, m, D]."""
        store = self.stores[name]
        store.grow(places.regions, places.slots)
        block = store.read(places.touched, new.device)
        block[places.row, :, places.at, places.slot] = new[places.row, :, places.token]
        store.write(places.touched, block)
        return block

    def _append(self, keys: Tensor, values: Tensor, source: Tensor) -> None:
        new = source.shape[1]
        if self._columns + new > self._text_context_keys.shape[2]:
            room = max(64, self._columns + new, self._text_context_keys.shape[2])
            self._text_context_keys = torch.cat(
                [self.text_context_keys, keys.new_zeros(*keys.shape[:2], room, keys.shape[-1])], 2
            )
            self._text_context_values = torch.cat(
                [self.text_context_values, values.new_zeros(*values.shape[:2], room, values.shape[-1])], 2
            )
        at = slice(self._columns, self._columns + new)
        self._text_context_keys[:, :, at] = _take(keys, source)
        self._text_context_values[:, :, at] = _take(values, source)
        self._columns += new

    def get_seq_length(self) -> int:
        return self.cache.length if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def rows(self, index: Tensor) -> None:
        """Keep, repeat or reorder rows."""
        if not self.is_initialized:
            return
        self._page_rows(index)
        for name in ("descriptors", "_text_context_keys", "_text_context_values"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value.index_select(0, index.to(value.device)))

    def _page_rows(self, index: Tensor) -> None:
        for store in self.stores.values():
            store.rows(index)

    def drop_columns(self, columns: int) -> None:
        """Keep the first `columns` text and context columns."""
        self._columns = min(self._columns, columns)

    def reset(self) -> None:
        self.__init__(self.cache)


def _take(x: Tensor, source: Tensor) -> Tensor:
    """[B, G, S, D] → [B, G, N, D] by int64 [B, N]; what -1 yields is hidden by its role."""
    at = source.clamp(min=0)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[-1])
    return x.gather(2, at)
