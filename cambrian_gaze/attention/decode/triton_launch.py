"""One decoding step in Triton: scores, TopK, the union of a KV head's pages with a bit per query head, attention over
them split into parts, and the parts merged. Shapes are fixed and nothing is read back, so that a CUDA graph takes it.

`triton.py` says when it serves. Checked in Triton's interpreter and compiled for sm_80 and sm_90; not run on a GPU,
which is why plain torch (`reference`) stays the default there.

Shapes: B rows, G KV heads, n query heads per KV head, R regions of m slots, T text and context columns, D head size,
K selected regions, s selections per KV head (1, or n), U pages listed at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from cambrian_gaze.attention.context import LayerPages, Seen, text_context_columns
from cambrian_gaze.attention.decode import triton_kernels as kernels
from cambrian_gaze.attention.triton.launch import on_device
from cambrian_gaze.gaze.routing import Pool, as_mask

MOST_HEADS = 31
"""Query heads per KV head, at most: they are marked by the bits of one int32."""

MOST_SCORES = 1 << 15
"""Scores of an item that one program ranks, at most; more are ranked in torch."""

KEYS_AT_ONCE = 64
"""Keys in a tile; half as many in fp32, whose products keep more in registers."""

PROGRAMS = 512
"""Programs that `attend` aims at, a few for each multiprocessor."""

KEYS_PER_PART = 128
"""Keys of a part, at least: below, merging costs more than the part."""


@dataclass(frozen=True)
class Pages:
    """The pages that some query head of a KV head wants, by rising number; I = B·G."""

    listed: Tensor
    """int32 [I, U]."""

    marks: Tensor
    """int32 [I, U]: a bit per query head that wants the page."""

    count: Tensor
    """int32 [I]: how many of the U are listed."""


def takes(grouped: Tensor, pages: LayerPages) -> bool:
    """Whether a step of queries [B, G, n, D] without gradients can run here: all pages on the device."""
    return pages.resident and grouped.shape[2] <= MOST_HEADS


def chooses(num_regions: int, selections: int) -> bool:
    """Whether `choose` ranks this many regions."""
    return triton.next_power_of_2(num_regions) * triton.next_power_of_2(selections) <= MOST_SCORES


def limits(pools: tuple[Pool, ...], batch: int, num_regions: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What `choose` needs of the pools, the same in every layer: bool [B, pools, R], regions that a pool does not
    offer; int32 [B, pools], regions that it keeps."""
    hidden = torch.zeros(batch, len(pools), num_regions, dtype=torch.bool, device=device)
    kept = torch.empty(batch, len(pools), dtype=torch.int32, device=device)
    for number, pool in enumerate(pools):
        kept[:, number] = pool.most if pool.dropped is None else (~pool.dropped).sum(-1).view(batch)
        if pool.hidden is not None:
            hidden[:, number] = pool.hidden.view(-1, num_regions)
    return hidden, kept


def choose(q: Tensor, descriptors: Tensor, limits: tuple[Tensor, Tensor], most: int, selections: int) -> Pages:
    """The pages of the regions whose descriptors have the highest products with the queries, as `region_scores` and
    `choose_from` find them.

    Args:
        q: [B, G, n, D], contiguous; descriptors: fp32 [B, G, R, D]; limits: `limits`; most: K of all pools together.
    """
    batch, groups, heads, dim = q.shape
    items, num_regions = batch * groups, descriptors.shape[2]
    hidden, kept = limits
    room = min(num_regions, selections * most)
    scores = q.new_empty(items, selections, num_regions, dtype=torch.float32)
    listed, marks = (q.new_empty(items, room, dtype=torch.int32) for _ in range(2))
    count = q.new_empty(items, dtype=torch.int32)
    sizes = dict(S=selections, P=heads)
    ranked = dict(SP=triton.next_power_of_2(selections), RP=triton.next_power_of_2(num_regions))
    with on_device(q.device):
        kernels.score[items, triton.cdiv(num_regions, KEYS_AT_ONCE)](
            q, descriptors.contiguous(), scores, num_regions, **sizes, D=dim, DP=_padded(dim), N=KEYS_AT_ONCE
        )
        kernels.select[items,](
            scores, hidden, kept, listed, marks, count, groups, num_regions, room, POOLS=kept.shape[1], **sizes,
            **ranked, num_warps=16 if ranked["SP"] * ranked["RP"] > 8192 else 8,
        )  # fmt: skip
    return Pages(listed, marks, count)


def pages_of(regions: Tensor | None, shape: tuple[int, int, int], num_regions: int, device: torch.device) -> Pages:
    """The pages of the regions int64 [B, H or G, 1, K], -1 for none; None: every page, for every query head.

    Args:
        shape: B, G, n.
    """
    batch, groups, heads = shape
    everyone = (1 << heads) - 1
    if regions is None:
        every = torch.arange(num_regions, dtype=torch.int32, device=device).expand(batch * groups, -1).contiguous()
        return Pages(every, torch.full_like(every, everyone), every.new_full((len(every),), num_regions))
    selections = regions.shape[1] // groups
    bit = torch.arange(selections, device=regions.device)[:, None]
    mask = as_mask(regions, num_regions).view(batch * groups, selections, num_regions).int()
    mark = mask[:, 0] * everyone if selections == 1 else (mask << bit).sum(1, dtype=torch.int32)
    room = min(num_regions, selections * regions.shape[-1])
    wanted = mark != 0
    place = torch.where(wanted, wanted.cumsum(1) - 1, room)
    number = torch.arange(num_regions, dtype=torch.int32, device=regions.device).expand_as(mark)
    listed, marks = (x.new_zeros(len(x), room + 1).scatter_(1, place, x)[:, :room] for x in (number, mark))
    return Pages(listed.contiguous(), marks.contiguous(), wanted.sum(1, dtype=torch.int32))


def slots_seen(regions: Tensor | None, page_seen: Tensor, groups: int, num_regions: int) -> Tensor:
    """Slots that enter the softmax: int64 [B, G, n or 1], or [B, 1, 1] where `regions` is None, every one."""
    seen = page_seen.view(len(page_seen), 1, num_regions, -1).sum(-1)
    if regions is None:
        return seen.sum(-1, keepdim=True)
    return (seen * as_mask(regions, num_regions)[:, :, 0]).sum(-1).view(len(seen), groups, -1)


def attend(q: Tensor, pages: LayerPages, wanted: Pages, seen: Seen, scaling: float) -> Tensor:
    """Attention of q [B, G, n, D], contiguous, over the wanted pages, text and context; returns [B, G, n, D]. `seen`
    has both masks."""
    batch, groups, heads, dim = q.shape
    items, (num_regions, slots) = batch * groups, pages.page_keys.shape[2:4]
    (key_rows, value_rows, room), (keys, values) = pages.page_rows(), text_context_columns(pages)
    most, columns = wanted.listed.shape[1], keys.shape[2]
    parts = [_parts(items, number) for number in (most * slots, columns)]
    part_out = q.new_empty(items, sum(parts), heads, dim, dtype=torch.float32)
    part_lse, out = q.new_empty(items, sum(parts), heads, dtype=torch.float32), torch.empty_like(q)
    shape = dict(P=heads, D=dim, DP=_padded(dim))
    tile = dict(M=max(16, triton.next_power_of_2(heads)), N=KEYS_AT_ONCE // (2 if q.dtype == torch.float32 else 1))
    with on_device(q.device):
        kernels.attend[items, sum(parts)](
            q, key_rows, value_rows, keys, values, wanted.listed, wanted.marks, wanted.count, seen.pages.contiguous(),
            seen.text_context.contiguous(), part_out, part_lse, scaling, groups, num_regions, most, columns, room,
            slots, parts[0], *keys.stride()[:2], **shape, **tile,
        )  # fmt: skip
        kernels.merge[items * heads,](
            part_out, part_lse, out, sum(parts), **shape, ZP=triton.next_power_of_2(sum(parts))
        )
    return out


def _parts(items: int, keys: int) -> int:
    """Into how many parts an item's keys are cut."""
    return max(1, min(triton.cdiv(PROGRAMS, items), keys // KEYS_PER_PART))


def _padded(dim: int) -> int:
    return max(16, triton.next_power_of_2(dim))
