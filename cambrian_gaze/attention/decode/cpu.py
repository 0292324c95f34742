"""One decoding step on a CPU: the selected pages are copied into a buffer that is kept, some KV heads at a time, and
both matrix products run over the copies while the cache of the processor still holds them.

Under `q_head` each query head's pages are copied for itself where they are few; else the union of the selections of a
KV head's query heads is copied, and a bit per query head and page says whose it is. Where most pages are wanted anyway,
all are read in place under a mask. Same contract as `reference`, and the same numbers.

Shapes: B rows, G KV heads, n query heads per KV head, R regions of m slots, T text and context columns, D head size;
N rows of work, B·G with h = n query heads, or B·G·n with h = 1; U pages read per row of work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cambrian_gaze.attention.context import LayerPages, Seen
from cambrian_gaze.attention.decode.reference import stand_in
from cambrian_gaze.attention.decode.workspace import Workspace
from cambrian_gaze.gaze.routing import as_mask

# Measured on 2 cores of an AMD EPYC with 32 MiB of last-level cache, 576 to 36,864 visual tokens in regions of 36, 32
# query heads on 8 KV heads of 128, fp32 and bf16, two threads.

READ_ALL_FROM = 0.9
"""Share of the pages from which all are read in place under a mask instead of copying those selected: the same pages
enter the softmax."""

BLOCK_BYTES = 10 << 20
"""Copied at a time: the copies are read again while the processor's cache holds most of them, in few calls."""

SCORES_AT_ONCE = 1 << 18
"""Scores of pages read in place that are held at a time: they stay in the processor's cache."""

UNION_FROM = 48 << 20
"""Bytes of all query heads' pages from which the heads of a KV head share one copy of a page; below, finding the union
costs more than it saves."""

FUSE_UP_TO = 2 << 20
"""Bytes of pages up to which they are joined with the text for one fused call: fewer calls, more copying."""

WIDEN_UP_TO = 2 << 20
"""Bytes of pages up to which fp16 and bf16 are computed in fp32: there narrow products cost more in set-up."""


def attend(
    grouped: Tensor,
    pages: LayerPages,
    seen: Seen,
    regions: Tensor | None,
    complete: bool,
    scaling: float,
    workspace: Workspace,
) -> tuple[Tensor, Tensor | int]:
    """As `reference.attend`; a mask of `seen` may be None.

    Args:
        complete: whether no number in `regions` is -1.

    Returns: [B, G, n, D], and the slots that entered the softmax: int64 [B, G, n or 1], or one number for all.
    """
    batch, groups, heads, dim = grouped.shape
    kv_heads, (num_regions, slots) = batch * groups, pages.page_keys.shape[2:4]
    page_bytes = slots * dim * grouped.element_size()
    number, mine = _pages_to_read(regions, complete, kv_heads, num_regions, page_bytes)
    rows, read = (kv_heads, num_regions) if number is None else number.shape
    allowed = _allowed(number, mine, seen.pages, rows, num_regions, slots)
    if number is not None and rows == kv_heads and rows * read * page_bytes <= FUSE_UP_TO:
        if allowed is None and seen.text_context is None:
            return _attend_few(grouped, pages, number, scaling, workspace), read * slots

    wide = torch.promote_types(grouped.dtype, torch.float32)
    compute = wide if rows * read * page_bytes <= WIDEN_UP_TO else grouped.dtype
    q = grouped.view(kv_heads, heads, dim).to(compute)
    text_keys, text_values = (x.flatten(0, 1).to(compute) for x in (pages.text_context_keys, pages.text_context_values))
    on_text = torch.bmm(q, text_keys.transpose(1, 2))
    if seen.text_context is not None:
        on_text.view(batch, groups, heads, -1).masked_fill_(~seen.text_context[:, None, None], -torch.inf)

    if number is None:
        out = _attend_in_place(q, pages, on_text, text_values, allowed, scaling)
    else:
        out = _attend_copies(q, pages, number, on_text, text_values, allowed, scaling, workspace)
    count = read * slots if allowed is None else allowed.flatten(2).sum(-1).view(batch, groups, -1)
    return out.to(grouped.dtype).view(grouped.shape), count


def _attend_few(grouped: Tensor, pages: LayerPages, number: Tensor, scaling: float, workspace: Workspace) -> Tensor:
    """Pages `number` int64 [B·G, K] of each KV head, text and context in one fused call; everything is seen."""
    key_rows, value_rows, room = pages.page_rows()
    place = (number + workspace.starts(len(number), room, 1)).view(-1)
    shape = (*grouped.shape[:2], -1, grouped.shape[3])
    keys, values = (
        torch.cat([rows.index_select(0, place).view(shape), text_context], 2)
        for rows, text_context in ((key_rows, pages.text_context_keys), (value_rows, pages.text_context_values))
    )
    return scaled_dot_product_attention(grouped, keys, values, scale=scaling)


def _attend_copies(
    q: Tensor,
    pages: LayerPages,
    number: Tensor,
    on_text: Tensor,
    text_values: Tensor,
    allowed: Tensor | None,
    scaling: float,
    workspace: Workspace,
) -> Tensor:
    """`_attend_rows` over copies of the pages `number` int64 [N, U] of each row of work, some KV heads at a time."""
    (kv_heads, heads, dim), (rows, read), per = q.shape, number.shape, len(number) // len(q)
    key_rows, value_rows, room = pages.page_rows()
    place = number + workspace.starts(kv_heads, room, per)
    step, pages_at_once = _at_once(kv_heads, per, read, key_rows.shape[1] * key_rows.element_size())

    def copies(page_rows: Tensor, spans: Iterable[Tensor]) -> Iterator[Tensor]:
        for span in spans:
            block = workspace.take("pages", (span.numel(), page_rows.shape[1]), page_rows.dtype)
            yield torch.index_select(page_rows, 0, span.flatten(), out=block).view(len(span), -1, dim).to(q.dtype)

    q, on_text = q.view(rows, -1, dim), on_text.view(rows, heads // per, -1)
    if step >= kv_heads:
        keys, values = copies(key_rows, [place]), copies(value_rows, [place])
        return _attend_rows(q, keys, values, on_text, text_values, allowed, scaling)
    parts = []
    for first in range(0, kv_heads, step):
        group, work = slice(first, first + step), slice(first * per, (first + step) * per)
        spans = place[work].split(pages_at_once, 1)
        seen = None if allowed is None else allowed[work]
        keys, values = copies(key_rows, spans), copies(value_rows, spans)
        parts.append(_attend_rows(q[work], keys, values, on_text[work], text_values[group], seen, scaling))
    return torch.cat(parts)


def _attend_in_place(
    q: Tensor, pages: LayerPages, on_text: Tensor, text_values: Tensor, allowed: Tensor | None, scaling: float
) -> Tensor:
    """`_attend_rows` over all pages where they lie; where scores are many, some KV heads at a time."""
    keys, values = (x.flatten(2, 3).flatten(0, 1) for x in (pages.page_keys, pages.page_values))
    step = max(torch.get_num_threads(), SCORES_AT_ONCE // max(1, q.shape[1] * keys.shape[1]))
    if step >= len(q):
        return _attend_rows(q, [keys.to(q.dtype)], [values.to(q.dtype)], on_text, text_values, allowed, scaling)
    parts = []
    for x in range(0, len(q), step):
        part = slice(x, x + step)
        block = [keys[part].to(q.dtype)], [values[part].to(q.dtype)]
        seen = None if allowed is None else allowed[part]
        parts.append(_attend_rows(q[part], *block, on_text[part], text_values[part], seen, scaling))
    return torch.cat(parts)


def _attend_rows(
    q: Tensor,
    keys: Iterable[Tensor],
    values: Iterable[Tensor],
    on_text: Tensor,
    text_values: Tensor,
    allowed: Tensor | None,
    scaling: float,
) -> Tensor:
    """One softmax over pages and text.

    Args:
        q: [N, h, D]; keys, values: the tokens [N, ·, D] of the pages, block by block.
        on_text: [N, h, T], products of queries and text, -inf where unseen; text_values: [C, T, D] of C KV heads.
        allowed: bool [N, h or 1, U, m]; None: every slot.

    Returns: [N, h, D], in at least fp32.
    """
    scores = torch.cat([*(torch.bmm(q, block.transpose(1, 2)) for block in keys), on_text], -1)
    scores = scores.to(torch.promote_types(q.dtype, torch.float32)).mul_(scaling)
    columns = on_text.shape[-1]
    on_pages = scores.shape[-1] - columns
    if allowed is not None:
        scores[:, :, :on_pages].unflatten(-1, allowed.shape[2:]).masked_fill_(~allowed, -torch.inf)
    weight = torch.softmax(scores, -1).to(q.dtype)
    on_text = weight[:, :, on_pages:].view(len(text_values), -1, columns)
    out = torch.bmm(on_text, text_values).to(scores.dtype).view(q.shape)
    at = 0
    for block in values:
        out += torch.bmm(weight[:, :, at : at + block.shape[1]], block)
        at += block.shape[1]
    return out


def _at_once(kv_heads: int, per: int, read: int, page_bytes: int) -> tuple[int, int]:
    """KV heads, and pages of each row of work, whose copies fill one block.

    Args:
        per: rows of work of a KV head, each of which reads `read` pages.
    """
    per_block = BLOCK_BYTES // page_bytes
    threads = torch.get_num_threads()
    step = per_block // (per * read)
    if step < kv_heads:  # as much work for every thread
        step = max(step // threads * threads, min(threads, kv_heads))
    return step, max(1, min(read, per_block // (per * min(step, kv_heads))))


def _pages_to_read(
    regions: Tensor | None, complete: bool, kv_heads: int, num_regions: int, page_bytes: int
) -> tuple[Tensor | None, Tensor | None]:
    """Which pages each row of work reads, and whose they are.

    Args:
        regions: int64 [B, H or G, 1, K], -1 for none; None: every page, for everyone.

    Returns: int64 [N, U], or None where all are read in place; bool [N, h or 1, U], or None: all are everyone's.
    """
    if regions is None:
        return None, None
    most = regions.shape[-1]
    chosen = regions.view(kv_heads, -1, most)
    if most >= READ_ALL_FROM * num_regions:
        return None, as_mask(chosen, num_regions)
    alone = chosen.shape[1] * most <= num_regions and chosen.numel() * page_bytes <= UNION_FROM
    if chosen.shape[1] == 1 or alone:
        number = chosen.view(-1, most)
        return (number, None) if complete else (stand_in(number), (number >= 0)[:, None])
    marks = as_mask(chosen, num_regions)
    wanted = marks.any(1)
    count = wanted.sum(1, keepdim=True)
    read = max(int(count.max()), 1)
    if read >= READ_ALL_FROM * num_regions:
        return None, marks
    place = torch.where(wanted, wanted.cumsum(1) - 1, read)
    number = place.new_zeros(kv_heads, read + 1)
    number.scatter_(1, place, torch.arange(num_regions, device=place.device).expand(kv_heads, -1))
    spare = torch.arange(read, device=place.device) >= count
    number = torch.where(spare, number[:, :1], number[:, :read])
    return number, marks.gather(2, number[:, None].expand(-1, chosen.shape[1], -1)) & ~spare[:, None]


def _allowed(
    number: Tensor | None, mine: Tensor | None, page_seen: Tensor | None, rows: int, num_regions: int, slots: int
) -> Tensor | None:
    """Slots that enter the softmax, bool [N, h or 1, U, m]; None: all that are read."""
    if page_seen is None:
        return None if mine is None else mine[..., None].expand(*mine.shape, slots)
    batch = len(page_seen)
    seen = page_seen.view(batch, 1, num_regions, slots).repeat_interleave(rows // batch, 0)
    if number is not None:
        seen = seen.gather(2, number[:, None, :, None].expand(-1, 1, -1, slots))
    return seen if mine is None else seen & mine[..., None]
