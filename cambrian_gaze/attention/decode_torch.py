"""One decoding step in plain torch: the reference of every other way, and what runs on a GPU or with gradients.

Fixed shapes and no look at the data: K pages per selection, whatever is chosen. `kv_group` gathers one selection per
KV head, `q_head` one per query head.

Shapes: B rows, G KV heads, n query heads per KV head, R regions of m slots, T text and context columns, K selected
regions, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cambrian_gaze.attention.context import LayerPages


def attend(
    grouped: Tensor,
    pages: LayerPages,
    page_seen: Tensor,
    flat_seen: Tensor,
    regions: Tensor | None,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Text, context and the selected pages in one softmax, taken in at least fp32.

    Args:
        grouped: [B, G, n, D], queries.
        page_seen: bool [B, R·m]; flat_seen: bool [B, T].
        regions: int64 [B, H or G, 1, K], -1 for none; None: every page.

    Returns: [B, G, n, D], and bool [B, G, n, slots read]: the slots that entered the softmax.
    """
    batch, groups, heads, _ = grouped.shape
    text = grouped @ pages.flat_keys.transpose(-1, -2) * scaling
    text = text.masked_fill(~flat_seen[:, None, None, :], -torch.inf)
    if regions is None:
        keys, values = (x.flatten(2, 3)[:, :, None] for x in (pages.page_keys, pages.page_values))
        seen = page_seen[:, None, None, :]
    else:
        keys, values, seen = _gather(pages.page_keys, pages.page_values, page_seen, regions)
    split = keys.shape[2] > 1
    rows = grouped[:, :, :, None] if split else grouped[:, :, None]
    visual = (rows @ keys.transpose(-1, -2) * scaling).view(batch, groups, heads, -1)
    seen = seen.expand_as(visual)
    visual = visual.masked_fill(~seen, -torch.inf)

    wide = torch.promote_types(grouped.dtype, torch.float32)
    weight = torch.cat([visual, text], dim=-1).to(wide).softmax(-1).to(grouped.dtype)
    on_visual, on_text = weight.split([visual.shape[-1], text.shape[-1]], dim=-1)
    on_visual = on_visual[:, :, :, None] if split else on_visual[:, :, None]
    return (on_visual @ values).reshape(grouped.shape) + on_text @ pages.flat_values, seen


def stand_in(regions: Tensor) -> Tensor:
    """The numbers with one that is there in the place of each -1, so that a page nobody chose is not read: a weight of
    zero does not silence what is not finite."""
    return torch.where(regions < 0, regions.amax(-1, keepdim=True), regions).clamp(min=0)


def _gather(keys: Tensor, values: Tensor, seen: Tensor, regions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The selected pages.

    Args:
        keys, values: [B, G, R, m, D]; seen: bool [B, R·m]; regions: int64 [B, H or G, 1, K], -1 for none.

    Returns: keys and values [B, G, H/G or 1, K·m, D], seen bool [B, G, H/G or 1, K·m].
    """
    batch, groups, num_regions, slots, dim = keys.shape
    safe = stand_in(regions).view(batch, groups, -1)
    chosen = (regions >= 0).view(batch, groups, -1)
    row = torch.arange(batch * groups, device=keys.device).view(batch, groups, 1) * num_regions
    flat = (safe + row).flatten()
    shape = (batch, groups, regions.shape[1] // groups, regions.shape[3] * slots)
    keys, values = (x.reshape(-1, slots * dim).index_select(0, flat).view(*shape, dim) for x in (keys, values))
    row = torch.arange(batch, device=keys.device).view(batch, 1, 1) * num_regions
    seen = seen.view(-1, slots).index_select(0, (safe + row).flatten()).view(*chosen.shape, slots)
    return keys, values, (seen & chosen[..., None]).view(shape)
