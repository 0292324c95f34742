"""`GazeCache`: visual keys region-major with their descriptors, text and context keys in the order they came.

The cache knows which token goes where because `extend` is called with the layout of the new tokens before the decoder
runs; each layer's `update` then stores and returns the new keys and values alone. Attention reads the rest through the
`GazeContext`.

Shapes: B rows, G KV heads, R regions, m slots per region, T text and context columns, S new tokens, D head size.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from cambrian_gaze.attention.decode.workspace import Workspace
from cambrian_gaze.attention.policy.state import PolicyState
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import (
    EMPTY_SLOT,
    IMAGE,
    PAD,
    REGION_FIELDS,
    TEXT,
    TOKEN_FIELDS,
    VIDEO,
    VISUAL,
    TokenLayout,
)
from cambrian_gaze.models.cache.layer import GazeCacheLayer, PagePlan, StorePlan

_EMPTY_TOKEN = {"role": PAD, "index": EMPTY_SLOT, "sample": -1, "unit": -1, "region": -1, "slot": -1}
_EMPTY_TOKEN |= {"position_ids": 0, "routed": True}


class GazeCache(Cache):
    """The key-value cache of a gaze model, for `cache=`. Rows may be of unequal length (left padding).

    Args:
        policy: a baseline that limits what is kept and seen (see `attention.policy`).
    """

    def __init__(self, config: GazeConfig, policy: PolicyState | None = None):
        super().__init__(layers=[])
        self.config = config
        self.policy = policy
        self.workspace = Workspace()
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.layers = []
        self.length = 0
        if self.policy is not None:
            self.policy = PolicyState(self.policy.policy, self.policy.layers, self.policy.config)
        self.only_text_came = False
        self.plan: StorePlan | None = None
        self.last: TokenLayout | None = None
        self.page_layout: TokenLayout | None = None
        self.text_context_layout: TokenLayout | None = None

    @torch.compiler.disable
    def check(self, config: GazeConfig) -> None:
        """Refuse options that the stored pages and descriptors were not made for."""
        for name, made, asked in (
            ("descriptor", self.config.descriptor, config.descriptor),
            ("descriptor_keys", self.config.descriptor_keys, config.descriptor_keys),
            ("region_size of images", self.config.budget(IMAGE).region_size, config.budget(IMAGE).region_size),
            ("region_size of videos", self.config.budget(VIDEO).region_size, config.budget(VIDEO).region_size),
        ):
            if made != asked:
                raise ValueError(
                    f"this cache was made for {name}={made!r} and cannot serve {asked!r}; start with a fresh cache"
                )

    @torch.compiler.disable
    def extend(self, layout: TokenLayout, rotary: tuple[Tensor, Tensor] | None = None) -> None:
        """Take in the layout of the next call's tokens: book their places and plan where each layer stores them."""
        if self.page_layout is None:
            nothing = layout.tokens(slice(0, 0))
            self.page_layout = self.text_context_layout = nothing
            self._slots = 1
        batch, new = layout.shape
        self.only_text_came = new == 1 and bool(((layout.role == TEXT) & layout.routed).all())
        pages = None if self.only_text_came else self._book_pages(layout)
        flat_source = self._book_columns(layout, self.only_text_came)
        table = {name: getattr(layout, name) for name in (*REGION_FIELDS, "num_units", "next_position")}
        self.page_layout = dataclasses.replace(self.page_layout, **table)
        self.text_context_layout = dataclasses.replace(self.text_context_layout, **table)
        self.plan = StorePlan(pages, flat_source, rotary)
        self.last = layout.tokens(slice(new - 1, new))
        self.length += new

    def _book_pages(self, layout: TokenLayout) -> PagePlan | None:
        """Slots of the new visual tokens; grows the table to the layout's regions."""
        batch, new = layout.shape
        slots = max(self._slots, int(layout.region_size.max()) if layout.num_regions else 1)
        old_regions, old_slots = self.page_layout.shape[1] // self._slots, self._slots
        row, token = (layout.role == VISUAL).nonzero(as_tuple=True)
        if not len(row) and (layout.num_regions, slots) == (old_regions, old_slots):
            return None
        grown = {}
        for name in TOKEN_FIELDS:
            old = getattr(self.page_layout, name).view(batch, old_regions, old_slots)
            wide = torch.full(
                (batch, layout.num_regions, slots), _EMPTY_TOKEN[name], dtype=old.dtype, device=old.device
            )
            wide[:, :old_regions, :old_slots] = old
            grown[name] = wide.view(batch, -1)
        self._slots = slots
        region, slot = layout.region[row, token], layout.slot[row, token]
        for name in TOKEN_FIELDS:
            grown[name][row, region * slots + slot] = getattr(layout, name)[row, token]
        self.page_layout = dataclasses.replace(self.page_layout, **grown)
        touched, at = region.unique(return_inverse=True)
        held = grown["role"].view(batch, -1, slots)[:, touched] != PAD
        place = torch.arange(len(touched), device=touched.device)[:, None]
        filled = torch.where(held, place, -1).flatten(1)
        return PagePlan(layout.num_regions, slots, touched, row, token, at, slot, filled)

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
        joined = {name: torch.cat([getattr(self.text_context_layout, name), fields[name]], 1) for name in TOKEN_FIELDS}
        self.text_context_layout = dataclasses.replace(self.text_context_layout, **joined)
        return source

    def new_layer(self) -> GazeCacheLayer:
        """The next decoder layer's part."""
        return GazeCacheLayer(self)

    def key_layout(self) -> TokenLayout:
        """Layout of [page slots, columns], the order in which a multi-token call reads the cache."""
        joined = {
            name: torch.cat([getattr(self.page_layout, name), getattr(self.text_context_layout, name)], 1)
            for name in TOKEN_FIELDS
        }
        return dataclasses.replace(self.text_context_layout, **joined)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        """Store the new keys and values of a layer and return them alone."""
        while len(self.layers) <= layer_idx:
            self.layers.append(self.new_layer())
        return self.layers[layer_idx].update(key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens stored, padding included."""
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.length + query_length, 0

    def _select_rows(self, index: Tensor) -> None:
        for layer in self.layers:
            layer.rows(index)
        for name in ("page_layout", "text_context_layout", "last"):
            layout = getattr(self, name)
            if layout is not None:
                setattr(self, name, layout.rows(index.to(layout.role.device)))
        if self.policy is not None:
            self.policy.rows(index)

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
        if keep >= self.length or self.text_context_layout is None:
            return
        pages, flat = self.page_layout, self.text_context_layout
        ends = pages.region_end.masked_fill(pages.region_size == 0, 0)
        if ends.numel() and int(ends.max()) > keep:
            raise ValueError(f"cannot crop to {keep} tokens: an image or video reaches to token {int(ends.max())}")
        dropped = ((flat.index >= keep) & (flat.role != PAD)).sum(1)
        columns = int(((flat.index < keep).long() * torch.arange(1, flat.shape[1] + 1, device=flat.index.device)).max())
        gone = (flat.index >= keep)[:, :columns]
        fields = {n: getattr(flat, n)[:, :columns].masked_fill(gone, _EMPTY_TOKEN[n]) for n in TOKEN_FIELDS}
        next_position = flat.next_position - dropped
        self.text_context_layout = dataclasses.replace(flat, next_position=next_position, **fields)
        self.page_layout = dataclasses.replace(pages, next_position=next_position)
        self.last = dataclasses.replace(
            self.last, index=torch.full_like(self.last.index, keep - 1), next_position=next_position
        )
        for layer in self.layers:
            layer.drop_columns(columns)
        if self.policy is not None:
            self.policy.crop(keep)
        self.length = keep
