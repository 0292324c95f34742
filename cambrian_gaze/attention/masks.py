"""Attention of some queries under a mask, in blocks of bounded size: never all queries' masks at once.

Shapes: B rows, H query heads, G KV heads, T queries, S keys, R regions, K chosen, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import PAD, VISUAL, TokenLayout
from cambrian_gaze.gaze.routing import as_mask
from cambrian_gaze.gaze.visibility import routable, structure

BLOCK_PAIRS = 2**24
"""Pairs of a query (of a head) and a key in one block; a mask takes 4 or 5 bytes of each."""

SAVED_PAIRS = 2**22
"""Up to so many pairs a mask is kept for the backward pass; above, the backward pass computes the block once more."""

KEPT_PAIRS = 2**23
"""Up to so many pairs the part of the masks that all heads and layers share is kept from layer to layer."""


class Softmax(NamedTuple):
    """Options of every softmax of a layer."""

    scaling: float
    """Of the logits."""
    dropout: float = 0.0
    """Of the weights."""


@dataclass(frozen=True)
class MaskedRows:
    """Queries [B, T] and the keys [B, S] that they may see; and the parts of their masks that are the same in every
    layer."""

    queries: TokenLayout
    keys: TokenLayout
    config: GazeConfig

    ends: Sequence[int] | None = None
    """Per query, where rising: how many of the keys, from the first on, hold all that it sees. None: all keys."""

    kept: dict[tuple[str, int], tuple[Tensor, Tensor] | None] = field(default_factory=dict)

    def blocks(self, heads: int) -> Iterator[tuple[slice, int]]:
        """Queries in blocks for `heads` heads, and how many of the keys each block needs."""
        (batch, queries), keys = self.queries.shape, self.keys.shape[1]
        step = max(1, BLOCK_PAIRS // max(1, batch * heads * keys))
        for start in range(0, queries, step):
            stop = min(start + step, queries)
            yield slice(start, stop), keys if self.ends is None else self.ends[stop - 1]

    def seen(self, block: slice, end: int) -> tuple[Tensor, Tensor]:
        """Two masks bool [B, 1, T', S'] of the block's queries and the first S' keys: pairs that are seen whatever is
        chosen, and pairs that are seen where the key's region is chosen."""
        if ("seen", block.start) not in self.kept:
            return self._keep("seen", block, self._seen(block, end))
        return self.kept["seen", block.start]

    def _seen(self, block: slice, end: int) -> tuple[Tensor, Tensor]:
        queries, keys = self.queries.tokens(block), self.keys.tokens(slice(0, end))
        # The output of padding means nothing, but a softmax over no key at all would be no number.
        there = structure(queries, keys, self.config) | (queries.role == PAD)[:, :, None]
        choice = routable(queries, keys, self.config)
        return (there & ~choice)[:, None], (there & choice)[:, None]

    def allowed(self, block: slice, end: int, regions: Tensor | None) -> Tensor:
        """bool [B, H or G or 1, T', S']: pairs that enter the softmax.

        Args:
            regions: int64 [B, H or G, T, K], what all T queries chose, -1 for none; None: they see every region.
        """
        free, choice = self.seen(block, end)
        if regions is None:
            return free | choice
        chosen = as_mask(regions[:, :, block], self.keys.num_regions)
        at_key = self.keys.region[:, None, None, :end].clamp(min=0).expand(*chosen.shape[:3], -1)
        return chosen.gather(-1, at_key).logical_and_(choice).logical_or_(free)

    def added(self, block: slice, end: int, regions: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """`allowed` as numbers that are added to the logits, 0 or -inf: on a CPU torch takes longer to convert booleans
        than to attend. None where regions do not say it all: some query sees a visual key without having chosen its
        region.
        """
        parts = self._parts_added(block, end, dtype, regions is None)
        if parts is None:
            return None
        base, column = parts
        if regions is None:
            return base
        chosen, spare = regions[:, :, block], self.keys.num_regions
        table = base.new_full((*chosen.shape[:3], spare + 1), -torch.inf)
        table[..., spare] = 0
        table.scatter_(-1, torch.where(chosen < 0, spare, chosen), 0.0)
        if len(column) == 1:
            mask = table.flatten(0, 2).index_select(1, column[0]).view(*chosen.shape[:3], end)
        else:
            mask = table.gather(-1, column[:, None, None].expand(*chosen.shape[:3], -1))
        return mask.add_(base)

    def _parts_added(self, block: slice, end: int, dtype: torch.dtype, all_seen: bool) -> tuple[Tensor, Tensor] | None:
        """What is added whatever is chosen [B, 1, T', S'], and the keys' regions int64 [B, S'], R for none."""
        if ("added", block.start) in self.kept:
            return self.kept["added", block.start]
        free, choice = self._seen(block, end)
        visual = (self.keys.role[:, :end] == VISUAL)[:, None, None]
        if not all_seen and bool((free & visual).any()):
            return self._keep("added", block, None)
        base = torch.zeros(free.shape, dtype=dtype).masked_fill_(~(free | choice), -torch.inf)
        column = torch.where(visual[:, 0, 0], self.keys.region[:, :end], self.keys.num_regions)
        return self._keep("added", block, (base, column))

    def _keep(self, name: str, block: slice, parts: Any) -> Any:
        """Keep what a block's masks are made of for the next layer, where it is small."""
        if self.queries.role.numel() * self.keys.shape[1] <= KEPT_PAIRS:
            self.kept[name, block.start] = parts
        return parts


def attend_masked(
    q: Tensor, k: Tensor, v: Tensor, rows: MaskedRows, regions: Tensor | None, softmax: Softmax
) -> Tensor:
    """Attention of q [B, H, T, D] over k, v [B, G, S, D] under the masks of `rows`; returns [B, H, T, D]."""
    heads, records = q.shape[1], torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    parts = []
    for block, end in rows.blocks(heads):

        def run(q: Tensor, k: Tensor, v: Tensor, block: slice = block, end: int = end) -> Tensor:
            mask = rows.added(block, end, regions, q.dtype) if q.device.type == "cpu" else None
            mask = rows.allowed(block, end, regions) if mask is None else mask
            return under_mask(q, k, v, mask, softmax)

        mine, keys, values = q[:, :, block], k[:, :, :end], v[:, :, :end]
        if records and mine.shape[:3].numel() * end > SAVED_PAIRS:
            part = checkpoint(run, mine, keys, values, use_reentrant=False, preserve_rng_state=softmax.dropout > 0)
        else:
            part = run(mine, keys, values)
        parts.append(part)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def under_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, softmax: Softmax) -> Tensor:
    """Attention of q [B, H, T, D] over k, v [B, G, S, D] under a mask [B or 1, H or G or 1, T, S] as torch takes
    it. The heads of a KV head go side by side as more queries of it, so that keys and values are not repeated."""
    batch, heads, queries, dim = q.shape
    shared = heads // k.shape[1]
    if shared > 1:
        q = q.unflatten(1, (-1, shared)).flatten(2, 3)
        mask = mask.unflatten(1, (-1, shared)).flatten(2, 3) if mask.shape[1] == heads else mask.repeat(1, 1, shared, 1)
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=softmax.dropout, scale=softmax.scaling)
    return out.reshape(batch, heads, queries, dim)
