"""`TokenLayout`: role, sample, unit and region of every token. Derived once (`derive.py`), carried as one keyword, and
extended by the cache at decode. Everything that decides who may see whom is read off it (`visibility.py`).

Shapes: B rows, S tokens of a row (padding included), R regions of a row (padded to the batch's largest number).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from cambrian_gaze.gaze.token_types import IMAGE_TYPE, VIDEO_TYPE

PAD, TEXT, VISUAL, CONTEXT = 0, 1, 2, 3
"""Roles of a token; not its type in `mm_token_type_ids`, see `token_types`."""

IMAGE, VIDEO = IMAGE_TYPE, VIDEO_TYPE
"""Modalities of a region: the type of its visual tokens."""

EMPTY_SLOT = torch.iinfo(torch.int64).max
"""`index` of a slot that holds no token: after every query, hence seen by none."""


@dataclass(frozen=True)
class TokenLayout:
    """Place of every token of a batch. Units and regions are numbered within their row, in order of appearance."""

    role: Tensor
    """int8 [B, S]: PAD, TEXT, VISUAL or CONTEXT."""

    index: Tensor
    """int64 [B, S]: place in the row's sequence, padding included. Keys may be stored in any order; causality is
    `key.index <= query.index`."""

    sample: Tensor
    """int64 [B, S]: sample of a packed row, 0 where nothing is packed, -1 for padding."""

    unit: Tensor
    """int64 [B, S]: the image or frame that a visual or context token belongs to, else -1."""

    region: Tensor
    """int64 [B, S]: gaze region of a visual token, else -1."""

    slot: Tensor
    """int64 [B, S]: place of a visual token within its region, 0 … region_size-1, else -1."""

    position_ids: Tensor
    """int64 [B, S]: sequential over each sample, context tokens included, 0 for padding."""

    routed: Tensor
    """bool [B, S]: text queries that route (all of them, unless `route_prompt` is off)."""

    region_size: Tensor
    """int64 [B, R]: tokens of the region when it is complete; 0 where a row has fewer regions."""

    region_end: Tensor
    """int64 [B, R]: first index after the last unit that the region spans, its context tokens included."""

    region_sample: Tensor
    """int64 [B, R]: sample that the region belongs to, -1 where there is none."""

    region_modality: Tensor
    """int64 [B, R]: IMAGE or VIDEO, 0 where there is none."""

    region_unit: Tensor
    """int64 [B, R]: first unit that the region spans, -1 where there is none."""

    num_units: Tensor
    """int64 [B]: units of each row so far."""

    next_position: Tensor
    """int64 [B]: position id of the row's next token."""

    @property
    def num_regions(self) -> int:
        """R, the same for every row."""
        return self.region_size.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(B, S)."""
        return tuple(self.role.shape)

    def tokens(self, where: slice | Tensor) -> TokenLayout:
        """The layout of some tokens: a slice of S, or int64 [B, S'] of token numbers. The region table stays whole."""
        if isinstance(where, slice):
            take = {name: getattr(self, name)[:, where] for name in TOKEN_FIELDS}
        else:
            take = {name: getattr(self, name).gather(1, where) for name in TOKEN_FIELDS}
        return dataclasses.replace(self, **take)

    def with_routed(self, routed: Tensor) -> TokenLayout:
        """The same layout with other routing queries, bool [B, S]."""
        return dataclasses.replace(self, routed=routed)

    def rows(self, index: Tensor) -> TokenLayout:
        """The layout of some rows, int64 [B'] (beam search reorders and repeats them)."""
        return TokenLayout(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})

    def to(self, device: torch.device) -> TokenLayout:
        """The same layout on another device."""
        return TokenLayout(**{f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)})


TOKEN_FIELDS = ("role", "index", "sample", "unit", "region", "slot", "position_ids", "routed")
"""Fields of one entry per token."""

REGION_FIELDS = ("region_size", "region_end", "region_sample", "region_modality", "region_unit")
"""Fields of one entry per region."""
