"""One decoding step on a CPU: each selected page is copied once per KV head into a buffer that is kept, and both
matrix products run over the copies while the cache of the processor still holds them.

Under `q_head` the union of the selections of a KV head's query heads is read, and a bit per query head and page says
whose it is. Same contract as `decode_torch`, and the same numbers.

Shapes: N rows of work (batch rows × KV heads), n query heads per KV head, R regions of m slots, U pages read per row,
T text and context columns, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cambrian_gaze.attention.context import LayerPages
from cambrian_gaze.attention.decode_torch import stand_in
from cambrian_gaze.attention.workspace import Workspace
from cambrian_gaze.gaze.routing import as_mask

READ_ALL_FROM = 0.5
"""Share of the pages from which all are read in place under a mask instead of copying those selected: the same pages
enter the softmax, and attention then never costs more than dense. Measured, see `docs/benchmarks.md`."""

BLOCK_BYTES = 4 << 20
"""Copied at a time: small enough for the processor's cache, large enough that the calls do not count."""


def takes(q: Tensor, pages: LayerPages) -> bool:
    """Whether a step can run here: on a CPU, without gradients, and not while torch.compile or export looks on."""
    if q.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not (torch.is_grad_enabled() and (q.requires_grad or pages.flat_keys.requires_grad))


def attend(
    grouped: Tensor,
    pages: LayerPages,
    page_seen: Tensor | None,
    flat_seen: Tensor | None,
    regions: Tensor | None,
    scaling: float,
    workspace: Workspace,
) -> tuple[Tensor, Tensor]:
    """As `decode_torch.attend`; None instead of bool [B, R·m] or [B, T] says that everything is seen.

    Returns: [B, G, n, D], and bool [B, G, n or 1, U, m]: the slots that entered the softmax.
    """
    batch, groups, heads, dim = grouped.shape
    num_regions, slots = pages.page_keys.shape[2:4]
    rows, columns = batch * groups, pages.flat_keys.shape[2]
    q = grouped.reshape(rows, heads, dim)
    number, mine = _pages_to_read(regions, rows, heads, num_regions)
    read = num_regions if number is None else number.shape[1]
    allowed = _allowed(number, mine, page_seen, groups, num_regions, slots)

    wide = torch.promote_types(q.dtype, torch.float32)
    shape = (rows, heads, read * slots + columns)
    scores = workspace.take("scores", shape, wide, q.device)
    on_pages, on_text = scores.split([read * slots, columns], dim=-1)
    for at, span, keys in _blocks(pages.page_keys, number, workspace):
        on_pages[at, :, span].copy_(q[at] @ keys.transpose(1, 2))
    on_text.copy_(q @ pages.flat_keys.flatten(0, 1).transpose(1, 2))
    scores.mul_(scaling)
    if allowed is not None:
        on_pages.view(rows, heads, read, slots).masked_fill_(~allowed, -torch.inf)
    if flat_seen is not None:
        on_text.view(batch, groups, heads, columns).masked_fill_(~flat_seen[:, None, None], -torch.inf)

    weight = torch.softmax(scores, -1, out=workspace.take("weights", shape, wide, q.device))
    if q.dtype != wide:
        weight = workspace.take("narrow", shape, q.dtype, q.device).copy_(weight)
    on_pages, on_text = weight.split([read * slots, columns], dim=-1)
    out = (on_text @ pages.flat_values.flatten(0, 1)).to(wide)
    for at, span, values in _blocks(pages.page_values, number, workspace):
        out[at] += on_pages[at, :, span] @ values
    if allowed is None:
        allowed = torch.ones((), dtype=torch.bool).expand(rows, 1, read, slots)
    return out.to(q.dtype).view(grouped.shape), allowed.view(batch, groups, *allowed.shape[1:])


def _pages_to_read(regions: Tensor | None, rows: int, heads: int, num_regions: int) -> tuple[Tensor | None, ...]:
    """Which pages each row reads, and whose they are.

    Args:
        regions: int64 [B, H or G, 1, K], -1 for none; None: every page, for everyone.

    Returns: int64 [N, U], or None where all are read in place; bool [N, n or 1, U], or None: all are everyone's.
    """
    if regions is None:
        return None, None
    chosen = regions.view(rows, -1, regions.shape[-1])
    most = chosen.shape[2]
    if most >= READ_ALL_FROM * num_regions:
        return None, as_mask(chosen, num_regions)
    if chosen.shape[1] == 1:
        there = chosen >= 0
        number = chosen[:, 0]
        return (number, None) if there.all() else (stand_in(number), there)
    marks = as_mask(chosen, num_regions)
    wanted = marks.any(1)
    count = wanted.sum(1, keepdim=True)
    read = max(int(count.max()), 1)
    if read >= READ_ALL_FROM * num_regions:
        return None, marks
    place = torch.where(wanted, wanted.cumsum(1) - 1, read)
    number = place.new_zeros(rows, read + 1)
    number.scatter_(1, place, torch.arange(num_regions, device=place.device).expand(rows, -1))
    spare = torch.arange(read, device=place.device) >= count
    number = torch.where(spare, number[:, :1], number[:, :read])
    return number, marks.gather(2, number[:, None].expand(-1, heads, -1)) & ~spare[:, None]


def _allowed(
    number: Tensor | None, mine: Tensor | None, page_seen: Tensor | None, groups: int, num_regions: int, slots: int
) -> Tensor | None:
    """Slots that enter the softmax, bool [N, n or 1, U, m or 1]; None: all that are read."""
    if page_seen is None:
        return None if mine is None else mine[..., None].expand(*mine.shape, slots)
    batch = page_seen.shape[0]
    seen = page_seen.view(batch, 1, num_regions, slots).expand(-1, groups, -1, -1)
    if number is None:
        seen = seen.reshape(batch * groups, 1, num_regions, slots)
    else:
        row = torch.arange(batch, device=number.device).repeat_interleave(groups)[:, None] * num_regions
        seen = page_seen.view(-1, slots).index_select(0, (number + row).flatten()).view(len(number), 1, -1, slots)
    return seen if mine is None else seen & mine[..., None]


def _blocks(pages: Tensor, number: Tensor | None, workspace: Workspace) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, slots of `read` and the tokens [rows, slots, D] there, block by block; a block is gone with the next.

    Args:
        pages: [B, G, R, m, D].
        number: int64 [N, U]; None: all in place.
    """
    num_regions, slots, dim = pages.shape[2:]
    if number is None:
        yield slice(None), slice(None), pages.flatten(2, 3).flatten(0, 1)
        return
    rows, read = number.shape
    flat = pages.view(-1, slots * dim)
    number = number + torch.arange(rows, device=number.device)[:, None] * num_regions
    per_block = max(1, BLOCK_BYTES // (slots * dim * pages.element_size()))
    tall, long = max(1, per_block // read), min(read, per_block)
    for row in range(0, rows, tall):
        for page in range(0, read, long):
            part = number[row : row + tall, page : page + long]
            block = workspace.take("pages", (part.numel(), slots * dim), pages.dtype, pages.device)
            torch.index_select(flat, 0, part.flatten(), out=block)
            span = slice(page * slots, (page + part.shape[1]) * slots)
            yield slice(row, row + tall), span, block.view(len(part), -1, dim)
