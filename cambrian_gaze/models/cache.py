"""`GazeCache`: visual keys region-major with their descriptors, text and context keys in the order they came.

The cache knows which token goes where because `extend` is called with the layout of the new tokens before the decoder
runs; each layer's `update` then stores and returns the new keys and values alone. Attention reads the rest through the
`GazeContext`.

Shapes: B rows, G KV heads, R regions, m slots per region, T text and context columns, S new tokens, D head size.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from cambrian_gaze.attention.rotary import unrotate
from cambrian_gaze.attention.workspace import Workspace
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.descriptors import describe
from cambrian_gaze.gaze.layout import EMPTY_SLOT, PAD, REGION_FIELDS, TEXT, TOKEN_FIELDS, VISUAL, TokenLayout

_EMPTY_TOKEN = {"role": PAD, "index": EMPTY_SLOT, "sample": -1, "unit": -1, "region": -1, "slot": -1}
_EMPTY_TOKEN |= {"position_ids": 0, "routed": True}


@dataclass
class StorePlan:
    """Where the new tokens of one forward call go, the same in every layer."""

    page_source: Tensor | None
    """int64 [B, R·m]: new token of each page slot, -1 where the slot keeps what it has; None: no new visual token."""

    flat_source: Tensor
    """int64 [B, T_new]: new token of each new text or context column, -1 for an empty column."""

    regions: int
    """R after this call."""

    slots: int
    """m after this call."""

    region: Tensor | None
    """int64 [B, R·m]: region of each filled slot after this call, else -1."""

    rotary: tuple[Tensor, Tensor] | None
    """cos and sin of the new tokens, where descriptors are of keys before RoPE."""


class GazeCacheLayer(CacheLayerMixin):
    """One decoder layer's pages, descriptors, and text and context columns."""

    is_croppable = True
    supports_early_init = False

    def __init__(self, cache: GazeCache | None = None, **kwargs):
        super().__init__(**kwargs)
        self.cache = cache
        self.page_keys = self.page_values = self.descriptors = None
        self._bare_keys: Tensor | None = None
        """Page keys before RoPE, where descriptors are of those."""
        self._flat_keys = self._flat_values = None
        self._columns = 0

    @property
    def flat_keys(self) -> Tensor:
        """[B, G, T, D]."""
        return self._flat_keys[:, :, : self._columns]

    @property
    def flat_values(self) -> Tensor:
        """[B, G, T, D]."""
        return self._flat_values[:, :, : self._columns]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, groups, _, dim = key_states.shape
        self.dtype, self.device = key_states.dtype, key_states.device
        self.page_keys = key_states.new_zeros(batch, groups, 0, 1, dim)
        self.page_values = value_states.new_zeros(batch, groups, 0, 1, value_states.shape[-1])
        self._flat_keys = key_states.new_zeros(batch, groups, 0, dim)
        self._flat_values = value_states.new_zeros(batch, groups, 0, value_states.shape[-1])
        self._columns = 0
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Store [B, G, S, D] by the plan of `GazeCache.extend`; return them as they are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        plan = self.cache.plan
        if plan is None:
            raise ValueError("GazeCache.update was called before GazeCache.extend gave it the layout of the new tokens")
        if plan.page_source is not None:
            self.page_keys = _fill_pages(self.page_keys, key_states, plan)
            self.page_values = _fill_pages(self.page_values, value_states, plan)
            self._describe(key_states, plan)
        self._append(key_states, value_states, plan.flat_source)
        return key_states, value_states

    def _describe(self, keys: Tensor, plan: StorePlan) -> None:
        config = self.cache.config
        if config.descriptor == "oracle":
            return
        keys_of_slots = self.page_keys
        if config.descriptor_keys == "pre_rope":
            if self._bare_keys is None:
                self._bare_keys = keys.new_zeros(*self.page_keys.shape[:2], 0, 1, keys.shape[-1])
            keys_of_slots = self._bare_keys = _fill_pages(self._bare_keys, unrotate(keys, *plan.rotary), plan)
        self.descriptors = describe(keys_of_slots.flatten(2, 3), plan.region, plan.regions, config.descriptor)

    def _append(self, keys: Tensor, values: Tensor, source: Tensor) -> None:
        new = source.shape[1]
        if self._columns + new > self._flat_keys.shape[2]:
            room = max(64, self._columns + new, self._flat_keys.shape[2])
            self._flat_keys = torch.cat([self.flat_keys, keys.new_zeros(*keys.shape[:2], room, keys.shape[-1])], 2)
            self._flat_values = torch.cat(
                [self.flat_values, values.new_zeros(*values.shape[:2], room, values.shape[-1])], 2
            )
        at = slice(self._columns, self._columns + new)
        self._flat_keys[:, :, at] = _take(keys, source)
        self._flat_values[:, :, at] = _take(values, source)
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
        for name in ("page_keys", "page_values", "descriptors", "_flat_keys", "_flat_values", "_bare_keys"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value.index_select(0, index.to(value.device)))

    def drop_columns(self, columns: int) -> None:
        """Keep the first `columns` text and context columns."""
        self._columns = min(self._columns, columns)

    def reset(self) -> None:
        self.__init__(self.cache)


class GazeCache(Cache):
    """The key-value cache of a gaze model, for `past_key_values`. Rows may be of unequal length (left padding)."""

    def __init__(self, config: GazeConfig):
        super().__init__(layers=[])
        self.config = config
        self.workspace = Workspace()
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.layers = []
        self.length = 0
        self.only_text_came = False
        self.plan: StorePlan | None = None
        self.last: TokenLayout | None = None
        self.page_layout: TokenLayout | None = None
        self.flat_layout: TokenLayout | None = None

    def check(self, config: GazeConfig) -> None:
        """Refuse options that the stored descriptors were not made for."""
        for name in ("descriptor", "descriptor_keys"):
            if getattr(config, name) != getattr(self.config, name):
                raise ValueError(
                    f"this cache was made for {name}={getattr(self.config, name)!r} and cannot serve "
                    f"{getattr(config, name)!r}; start with a fresh cache"
                )

    def extend(self, layout: TokenLayout, rotary: tuple[Tensor, Tensor] | None = None) -> None:
        """Take in the layout of the next call's tokens: book their places and plan where each layer stores them."""
        if self.page_layout is None:
            nothing = layout.tokens(slice(0, 0))
            self.page_layout = self.flat_layout = nothing
            self._slots = 1
        batch, new = layout.shape
        self.only_text_came = new == 1 and bool((layout.role == TEXT).all())
        page_source = None if self.only_text_came else self._book_pages(layout)
        flat_source = self._book_columns(layout, self.only_text_came)
        table = {name: getattr(layout, name) for name in (*REGION_FIELDS, "num_units", "next_position")}
        self.page_layout = dataclasses.replace(self.page_layout, **table)
        self.flat_layout = dataclasses.replace(self.flat_layout, **table)
        region = self.page_layout.region if page_source is not None else None
        self.plan = StorePlan(page_source, flat_source, layout.num_regions, self._slots, region, rotary)
        self.last = layout.tokens(slice(new - 1, new))
        self.length += new

    def _book_pages(self, layout: TokenLayout) -> Tensor | None:
        """Slots of the new visual tokens; grows the table to the layout's regions."""
        batch, new = layout.shape
        slots = max(self._slots, int(layout.region_size.max()) if layout.num_regions else 1)
        old_regions = self.page_layout.shape[1] // self._slots
        grown = {}
        for name in TOKEN_FIELDS:
            old = getattr(self.page_layout, name).view(batch, old_regions, self._slots)
            wide = torch.full(
                (batch, layout.num_regions, slots), _EMPTY_TOKEN[name], dtype=old.dtype, device=old.device
            )
            wide[:, :old_regions, : self._slots] = old
            grown[name] = wide.view(batch, -1)
        self._slots = slots
        visual = layout.role == VISUAL
        source = torch.full_like(grown["index"], -1)
        row, token = visual.nonzero(as_tuple=True)
        at = (row, layout.region[row, token] * slots + layout.slot[row, token])
        source[at] = token
        for name in TOKEN_FIELDS:
            grown[name][at] = getattr(layout, name)[row, token]
        self.page_layout = dataclasses.replace(self.page_layout, **grown)
        return source if len(row) or layout.num_regions != old_regions else None

    def _book_columns(self, layout: TokenLayout, one_each: bool) -> Tensor:
        """Columns of the new text and context tokens, packed to the left."""
        batch, new = layout.shape
        if one_each:
            source = torch.zeros_like(layout.index)
            fields = {name: getattr(layout, name) for name in TOKEN_FIELDS}
        else:
            flat = (layout.role != VISUAL) & (layout.role != PAD)
            width = int(flat.sum(1).max())
            rank = flat.long().cumsum(1) - 1
            source = torch.full((batch, width), -1, dtype=torch.int64, device=flat.device)
            row, token = flat.nonzero(as_tuple=True)
            source[row, rank[row, token]] = token
            fields = {}
            for name in TOKEN_FIELDS:
                values = getattr(layout, name).gather(1, source.clamp(min=0)) if width else getattr(layout, name)[:, :0]
                fields[name] = values.masked_fill(source < 0, _EMPTY_TOKEN[name])
        joined = {name: torch.cat([getattr(self.flat_layout, name), fields[name]], 1) for name in TOKEN_FIELDS}
        self.flat_layout = dataclasses.replace(self.flat_layout, **joined)
        return source

    def key_layout(self) -> TokenLayout:
        """Layout of [page slots, columns], the order in which a multi-token call reads the cache."""
        joined = {
            name: torch.cat([getattr(self.page_layout, name), getattr(self.flat_layout, name)], 1)
            for name in TOKEN_FIELDS
        }
        return dataclasses.replace(self.flat_layout, **joined)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        """Store the new keys and values of a layer and return them alone."""
        while len(self.layers) <= layer_idx:
            self.layers.append(GazeCacheLayer(self))
        return self.layers[layer_idx].update(key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens stored, padding included."""
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.length + query_length, 0

    def _select_rows(self, index: Tensor) -> None:
        for layer in self.layers:
            layer.rows(index)
        for name in ("page_layout", "flat_layout", "last"):
            layout = getattr(self, name)
            if layout is not None:
                setattr(self, name, layout.rows(index.to(layout.role.device)))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the rows for beam search."""
        self._select_rows(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times."""
        if self.last is not None:
            rows = torch.arange(self.last.shape[0], device=self.last.role.device)
            self._select_rows(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows, by number or by a boolean mask."""
        self._select_rows(indices.nonzero().flatten() if indices.dtype == torch.bool else indices)

    def crop(self, max_length: int) -> None:
        """Forget the last tokens: -n drops n tokens, a positive number keeps that many. Text only.

        Raises: ValueError where the cut would go through visual or context tokens.
        """
        keep = self.length + max_length if max_length <= 0 else max_length
        if keep >= self.length or self.flat_layout is None:
            return
        pages, flat = self.page_layout, self.flat_layout
        ends = pages.region_end.masked_fill(pages.region_size == 0, 0)
        if ends.numel() and int(ends.max()) > keep:
            raise ValueError(f"cannot crop to {keep} tokens: an image or video reaches to token {int(ends.max())}")
        dropped = ((flat.index >= keep) & (flat.role != PAD)).sum(1)
        columns = int(((flat.index < keep).long() * torch.arange(1, flat.shape[1] + 1, device=flat.index.device)).max())
        gone = (flat.index >= keep)[:, :columns]
        fields = {n: getattr(flat, n)[:, :columns].masked_fill(gone, _EMPTY_TOKEN[n]) for n in TOKEN_FIELDS}
        next_position = flat.next_position - dropped
        self.flat_layout = dataclasses.replace(flat, next_position=next_position, **fields)
        self.page_layout = dataclasses.replace(pages, next_position=next_position)
        self.last = dataclasses.replace(
            self.last, index=torch.full_like(self.last.index, keep - 1), next_position=next_position
        )
        for layer in self.layers:
            layer.drop_columns(columns)
        self.length = keep


def _take(x: Tensor, source: Tensor) -> Tensor:
    """[B, G, S, D] → [B, G, N, D] by int64 [B, N]; what -1 yields is hidden by its role."""
    at = source.clamp(min=0)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[-1])
    return x.gather(2, at)


def _fill_pages(pages: Tensor, new: Tensor, plan: StorePlan) -> Tensor:
    """[B, G, R', m', D] with the new tokens in their slots; grown to the plan's R and m."""
    batch, groups, old_regions, old_slots, dim = pages.shape
    if (old_regions, old_slots) != (plan.regions, plan.slots):
        grown = pages.new_zeros(batch, groups, plan.regions, plan.slots, dim)
        grown[:, :, :old_regions, :old_slots] = pages
        pages = grown
    taken = _take(new, plan.page_source).view(pages.shape)
    keep = (plan.page_source < 0).view(batch, 1, plan.regions, plan.slots, 1)
    return torch.where(keep, pages, taken)
