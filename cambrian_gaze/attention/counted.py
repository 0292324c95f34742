"""What backends hand to the recorder (`record.py`): the pairs that entered the softmax, counted from the masks of
`masks.py`, of text queries and of each row's last query; and choices, brought to the queries' places.

Shapes: B rows, H query heads, G KV heads, Q queries, S keys, T queries that choose, C queries that are counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.masks import MaskedRows
from cambrian_gaze.attention.record import Counts
from cambrian_gaze.gaze.layout import CONTEXT, PAD, TEXT, VISUAL, TokenLayout
from cambrian_gaze.gaze.visibility import regions_offered


@dataclass(frozen=True)
class CountedRows:
    """The queries that are counted, the same in every layer."""

    at: Tensor
    """int64 [B, C]: which they are."""
    rows: MaskedRows

    @classmethod
    def of(cls, ctx: GazeContext) -> CountedRows:
        """For the recorder of `ctx`. Synchronises with the device."""
        at = _counted(ctx)
        return cls(at, MaskedRows(ctx.layout.tokens(at), ctx.key_layout, ctx.config))

    def record(self, ctx: GazeContext, layer: int, heads: int, regions: Tensor | None, tokens: Tensor | None) -> None:
        """Count the pairs that entered the softmax.

        Args:
            regions: int64 [B, H or G, T, K], what the queries int64 [B, T] (`tokens`) chose, -1 for none; None: the
                layer does not choose.
        """
        chosen = None if regions is None else at_queries(regions, tokens, ctx.layout.shape[1], self.at)
        role, blocks = self.rows.queries.role, []
        for block, end in self.rows.blocks(heads):
            # The masks let padding see all keys, so that its softmax is a number; it attends to nothing.
            allowed = self.rows.allowed(block, end, chosen) & (role[:, block] != PAD)[:, None, :, None]
            blocks.append(count_allowed(allowed, self.rows.queries.tokens(block), ctx.key_layout, heads))
        chosen = every_region(ctx, self.at) if chosen is None else chosen
        ctx.recorder.record(layer, chosen, Counts.of_blocks(blocks))


def count_allowed(allowed: Tensor, queries: TokenLayout, keys: TokenLayout, heads: int) -> Counts:
    """Count pairs by the key's role, for `heads` heads.

    Args:
        allowed: bool [B, H or G or 1, Q, S], of these queries and keys.
    """
    visual, context, text = (
        (allowed & (keys.role == role)[:, None, None]).sum(-1).repeat_interleave(heads // allowed.shape[1], dim=1)
        for role in (VISUAL, CONTEXT, TEXT)
    )
    earlier = (keys.index[:, None, :] <= queries.index[:, :, None]) & (keys.role == VISUAL)[:, None, :]
    before = (earlier & (keys.sample[:, None, :] == queries.sample[:, :, None])).sum(-1)
    return Counts(visual, context, text, before, (queries.role == TEXT) & (before > 0))


def at_queries(regions: Tensor, tokens: Tensor, length: int, at: Tensor | None = None) -> Tensor:
    """Choices, brought from the queries that choose to all queries, or to some.

    Args:
        regions: int64 [B, H or G, T, K], what the queries `tokens`, int64 [B, T], chose.
        length: Q, all queries.
        at: int64 [B, C], the queries wanted; None: all.

    Returns: int64 [B, H or G, Q or C, K], -1 for queries that chose nothing.
    """
    place = tokens.new_full((len(tokens), length), -1)
    place.scatter_(1, tokens, torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens))
    place = (place if at is None else place.gather(1, at))[:, None, :, None]
    taken = regions.gather(2, place.clamp(min=0).expand(-1, regions.shape[1], -1, regions.shape[3]))
    return taken.masked_fill(place < 0, -1)


def every_region(ctx: GazeContext, at: Tensor | None = None) -> Tensor:
    """The "choice" of a layer that does not route: every region that is offered, else -1. int64 [B, 1, Q, R], or
    [B, 1, C, R] of the queries `at`, int64 [B, C]."""
    offered = regions_offered(ctx.layout if at is None else ctx.layout.tokens(at), ctx.config)
    return torch.arange(offered.shape[2], device=offered.device).where(offered, -1)[:, None]


def _counted(ctx: GazeContext) -> Tensor:
    """int64 [B, C]: each row's text queries, its last query at the end; other queries before them fill a row up."""
    last = torch.arange(ctx.layout.shape[1], device=ctx.layout.role.device) == ctx.layout.shape[1] - 1
    wanted = last.expand(ctx.layout.shape)
    if not ctx.recorder.last_only:
        wanted = wanted | (ctx.layout.role == TEXT)
    most = int(wanted.sum(1).max())
    return wanted.to(torch.uint8).argsort(dim=1, stable=True)[:, -most:]
