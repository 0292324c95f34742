"""One decoding step in plain torch: the reference of every other way, and what runs on a GPU or with gradients.

Fixed shapes and no look at the data: K pages per selection, whatever is chosen. `kv_group` gathers one selection per
KV head, `q_head` one per query head.

Shapes: B rows, G KV heads, n query heads per KV head, R regions of m slots, T text and context columns, K selected
regions, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cambrian_gaze.attention.context import LayerPages, Seen


def attend(
    grouped: Tensor,
    pages: LayerPages,
    seen: Seen,
    regions: Tensor | None,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Text, context and the selected pages in one softmax, taken in at least fp32.

    Args:
        grouped: [B, G, n, D], queries.
        seen: both masks.
        regions: int64 [B, H or G, 1, K], -1 for none; None: every page.

    Returns: [B, G, n, D], and bool [B, G, n, slots read]: the slots that entered the softmax.
    """
    batch, groups, heads, _ = grouped.shape
    text = grouped @ pages.text_context_keys.transpose(-1, -2) * scaling
    text = text.masked_fill(~seen.text_context[:, None, None, :], -torch.inf)
    if regions is None:
        keys, values = (x.flatten(2, 3)[:, :, None] for x in (pages.page_keys, pages.page_values))
        slots_seen = seen.pages[:, None, None, :]
    else:
        keys, values, slots_seen = _gather(pages, seen.pages, regions)
    split = keys.shape[2] > 1
    rows = grouped[:, :, :, None] if split else grouped[:, :, None]
    visual = (rows @ keys.transpose(-1, -2) * scaling).view(batch, groups, heads, -1)
    slots_seen = slots_seen.expand_as(visual)
    visual = visual.masked_fill(~slots_seen, -torch.inf)

    wide = torch.promote_types(grouped.dtype, torch.float32)
    weight = torch.cat([visual, text], dim=-1).to(wide).softmax(-1).to(grouped.dtype)
    on_visual, on_text = weight.split([visual.shape[-1], text.shape[-1]], dim=-1)
    on_visual = on_visual[:, :, :, None] if split else on_visual[:, :, None]
    return (on_visual @ values).reshape(grouped.shape) + on_text @ pages.text_context_values, slots_seen


def stand_in(regions: Tensor) -> Tensor:
    """The same numbers, with a chosen one in the place of each -1, so that no page is read that nobody chose: a weight
    of zero does not silence what is not finite."""
    return torch.where(regions < 0, regions.amax(-1, keepdim=True), regions).clamp(min=0)


def _gather(pages: LayerPages, seen: Tensor, regions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The selected pages.

    Args:
        seen: bool [B, R·m]; regions: int64 [B, H or G, 1, K], -1 for none.

    Returns: keys and values [B, G, H/G or 1, K·m, D], seen bool [B, G, H/G or 1, K·m].
    """
    batch, groups = regions.shape[0], pages.text_context_keys.shape[1]
    safe = stand_in(regions).view(batch, groups, -1)
    chosen = (regions >= 0).view(batch, groups, -1)
    keys, values = pages.gather_pages(safe)
    slots, num_regions = keys.shape[3], seen.shape[1] // keys.shape[3]
    shape = (batch, groups, regions.shape[1] // groups, regions.shape[3] * slots)
    row = torch.arange(batch, device=seen.device).view(batch, 1, 1) * num_regions
    seen = seen.view(-1, slots).index_select(0, (safe + row).flatten()).view(*chosen.shape, slots)
    seen = (seen & chosen[..., None]).view(shape)
    return keys.view(*shape, keys.shape[-1]), values.view(*shape, values.shape[-1]), seen
