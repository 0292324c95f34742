"""One decoding step on a CPU: each selected page is copied once per KV head into a buffer that is kept, and both
matrix products run over the copies while the cache of the processor still holds them.

Under `q_head` the union of the selections of a KV head's query heads is read, and a bit per query head and page says
whose it is; where the selections are so small that they fit one block, building the union would cost more than it
saves, and each query head reads its own. Same contract as `decode_torch`, and the same numbers.

Shapes: B rows, G KV heads, n query heads per KV head, R regions of m slots, T text and context columns, D head size;
N rows of work, B·G with h = n query heads, or B·G·n with h = 1; U pages read per row of work.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cambrian_gaze.attention.context import LayerPages
from cambrian_gaze.attention.decode_torch import stand_in
from cambrian_gaze.attention.workspace import Workspace
from cambrian_gaze.gaze.routing import as_mask

READ_ALL_FROM = 0.65
"""Share of the pages from which all are read in place under a mask instead of copying those selected: the same pages
enter the softmax. Measured (9,216 visual tokens, fp32, one thread): copying half costs less than reading all."""

BLOCK_BYTES = 16 << 20
"""Copied at a time: the copies are read again while the processor's cache holds most of them, in few calls."""


def takes(q: Tensor, pages: LayerPages) -> bool:
    """Whether a step can run here: on a CPU with all pages at hand, without gradients, and not while torch.compile or
    export looks on."""
    if q.device.type != "cpu" or torch.compiler.is_compiling() or not pages.resident:
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
    columns = pages.flat_keys.shape[2]
    page_bytes = slots * dim * pages.page_keys.element_size()
    number, mine = _pages_to_read(regions, batch * groups, num_regions, BLOCK_BYTES // page_bytes)
    read = num_regions if number is None else number.shape[1]
    rows = batch * groups if number is None else len(number)
    allowed = _allowed(number, mine, page_seen, rows, num_regions, slots)

    q = grouped.reshape(rows, -1, dim)
    q_text = grouped.reshape(batch * groups, heads, dim)
    wide = torch.promote_types(q.dtype, torch.float32)
    shape = (rows, q.shape[1], read * slots + columns)
    scores = workspace.take("scores", shape, wide, q.device)
    on_pages, on_text = _split(scores, read * slots, len(q_text))
    key_rows, value_rows, room = pages.page_rows()
    place = None if number is None else _flat(number, batch * groups, room).view(rows, read)
    for at, span, keys in _blocks(pages.page_keys, key_rows, place, workspace):
        on_pages[at, :, span].copy_(torch.bmm(q[at], keys.transpose(1, 2)))
    on_text.copy_(torch.bmm(q_text, pages.flat_keys.flatten(0, 1).transpose(1, 2)))
    scores.mul_(scaling)
    if allowed is not None:
        on_pages.unflatten(-1, (read, slots)).masked_fill_(~allowed, -torch.inf)
    if flat_seen is not None:
        on_text.view(batch, groups, heads, columns).masked_fill_(~flat_seen[:, None, None], -torch.inf)

    weight = torch.softmax(scores, -1, out=workspace.take("weights", shape, wide, q.device))
    if q.dtype != wide:
        weight = workspace.take("narrow", shape, q.dtype, q.device).copy_(weight)
    on_pages, on_text = _split(weight, read * slots, len(q_text))
    out = torch.bmm(on_text, pages.flat_values.flatten(0, 1)).to(wide)
    of_rows = out.view(q.shape)
    for at, span, values in _blocks(pages.page_values, value_rows, place, workspace):
        of_rows[at] += torch.bmm(on_pages[at, :, span], values)
    if allowed is None:
        allowed = torch.ones((), dtype=torch.bool).expand(rows, 1, read, slots)
    allowed = allowed.reshape(batch, groups, allowed.shape[1] * rows // len(q_text), read, slots)
    return out.to(q.dtype).view(grouped.shape), allowed


def _split(x: Tensor, on_pages: int, text_rows: int) -> tuple[Tensor, Tensor]:
    """Views of [N, h, U·m + T]: the pages' part [N, h, U·m], and the text's [B·G, n, T]."""
    return x[:, :, :on_pages], x.view(text_rows, -1, x.shape[-1])[:, :, on_pages:]


def _pages_to_read(
    regions: Tensor | None, groups: int, num_regions: int, per_block: int
) -> tuple[Tensor | None, Tensor | None]:
    """Which pages each row of work reads, and whose they are.

    Args:
        regions: int64 [B, H or G, 1, K], -1 for none; None: every page, for everyone.
        groups: B·G; per_block: pages that one block holds.

    Returns: int64 [N, U], or None where all are read in place; bool [N, h or 1, U], or None: all are everyone's.
    """
    if regions is None:
        return None, None
    chosen = regions.view(groups, -1, regions.shape[-1])
    most = chosen.shape[2]
    if most >= READ_ALL_FROM * num_regions:
        return None, as_mask(chosen, num_regions)
    if chosen.shape[1] == 1 or chosen.numel() <= per_block:
        number = chosen.flatten(0, 1)
        there = number >= 0
        return (number, None) if there.all() else (stand_in(number), there[:, None])
    marks = as_mask(chosen, num_regions)
    wanted = marks.any(1)
    count = wanted.sum(1, keepdim=True)
    read = max(int(count.max()), 1)
    if read >= READ_ALL_FROM * num_regions:
        return None, marks
    place = torch.where(wanted, wanted.cumsum(1) - 1, read)
    number = place.new_zeros(groups, read + 1)
    number.scatter_(1, place, torch.arange(num_regions, device=place.device).expand(groups, -1))
    spare = torch.arange(read, device=place.device) >= count
    number = torch.where(spare, number[:, :1], number[:, :read])
    return number, marks.gather(2, number[:, None].expand(-1, chosen.shape[1], -1)) & ~spare[:, None]


def _allowed(
    number: Tensor | None, mine: Tensor | None, page_seen: Tensor | None, rows: int, num_regions: int, slots: int
) -> Tensor | None:
    """Slots that enter the softmax, bool [N, h or 1, U, m]; None: all that are read."""
    if page_seen is None:
        return None if mine is None else mine[..., None].expand(*mine.shape, slots)
    seen = page_seen.view(-1, 1, num_regions, slots).repeat_interleave(rows // len(page_seen), 0)
    if number is not None:
        seen = seen.flatten(0, 2).index_select(0, _flat(number, rows, num_regions)).view(rows, 1, -1, slots)
    return seen if mine is None else seen & mine[..., None]


def _flat(number: Tensor, rows: int, num_regions: int) -> Tensor:
    """Places of pages int64 [N, U] among those of `rows` tables, one after the other; N a multiple of `rows`."""
    table = torch.arange(0, rows * num_regions, num_regions, device=number.device)
    return (number.reshape(rows, -1) + table[:, None]).flatten()


def _blocks(
    pages: Tensor, flat: Tensor, place: Tensor | None, workspace: Workspace
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, slots read and the tokens [rows, slots, D] there, block by block; a block is gone with the next.

    Args:
        pages: [B, G, R, m, D]; flat: the same as rows [pages, m·D], with room for more regions.
        place: int64 [N, U], rows of `flat`; None: all pages in place.
    """
    slots, dim = pages.shape[3:]
    everything = slice(None)
    if place is None:
        yield everything, everything, pages.flatten(2, 3).flatten(0, 1)
        return
    rows, read = place.shape
    per_block = max(1, BLOCK_BYTES // (slots * dim * pages.element_size()))
    tall, long = max(1, per_block // read), min(read, per_block)
    if tall >= rows:
        yield everything, everything, _copy(flat, place, workspace).view(rows, -1, dim)
        return
    for row in range(0, rows, tall):
        for page in range(0, read, long):
            part = place[row : row + tall, page : page + long]
            span = slice(page * slots, (page + part.shape[1]) * slots)
            yield slice(row, row + tall), span, _copy(flat, part, workspace).view(len(part), -1, dim)


def _copy(flat: Tensor, place: Tensor, workspace: Workspace) -> Tensor:
    """Rows `place` of [pages, m·D], in the buffer that is kept."""
    block = workspace.take("pages", (place.numel(), flat.shape[1]), flat.dtype, flat.device)
    return torch.index_select(flat, 0, place.flatten(), out=block)
