"""The Triton code of `triton_launch.py`: four kernels of one decoding step, none of which writes where another
program writes.

Legend: B rows, G KV heads, I = B·G items, P query heads per KV head, S selections per KV head (1, or P), R regions of m
slots, U pages listed at most, C text and context columns, Z parts of an item's keys, D head size (DP: its power of
two). q and out are [I, P, D], contiguous. Sums are fp32; offsets into the cache are int64.
"""

import triton
import triton.language as tl

from cambrian_gaze.attention.triton.kernels import PRECISION


@triton.jit(do_not_specialize=["R"])
def score(
    q, descriptors, scores, R, S: tl.constexpr, P: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """N regions of an item: fp32 products of their descriptors with each query, or with the mean query where S is 1."""
    item = tl.program_id(0).to(tl.int64)
    d, r = tl.arange(0, DP), tl.program_id(1) * N + tl.arange(0, N)
    at = descriptors + (item * R + r)[:, None] * D + d[None, :]
    tile = tl.load(at, mask=(r < R)[:, None] & (d < D)[None, :], other=0.0)
    mean = tl.zeros([DP], tl.float32)
    for h in tl.static_range(P):
        query = tl.load(q + (item * P + h) * D + d, mask=d < D, other=0.0).to(tl.float32)
        if S == 1:
            mean += query
        else:
            tl.store(scores + (item * S + h) * R + r, tl.sum(tile * query[None, :], 1), mask=r < R)
    if S == 1:
        tl.store(scores + item * R + r, tl.sum(tile * (mean / P)[None, :], 1), mask=r < R)


@triton.jit(do_not_specialize=["G", "R", "U"])
def select(
    scores, hidden, kept, listed, marks, count, G, R, U, POOLS: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    SP: tl.constexpr, RP: tl.constexpr,
):  # fmt: skip
    """One item: of each pool the `kept` regions of highest score, ties to the lowest number; then the pages that some
    head wants, by rising number, and a bit per head.

    A score becomes an unsigned integer of the same order; the smallest one that is kept is found bit by bit.
    """
    item = tl.program_id(0)
    b = item // G
    i, r = tl.arange(0, SP), tl.arange(0, RP)
    there = (i < S)[:, None] & (r < R)[None, :]
    found = tl.load(scores + (item.to(tl.int64) * S + i)[:, None] * R + r[None, :], mask=there, other=0.0)
    bits = (found + 0.0).to(tl.int32, bitcast=True)  # -0.0 + 0.0 = 0.0: the two zeros tie
    rank = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) + 2147483648
    picked = tl.zeros([SP, RP], tl.int32)
    for pool in tl.static_range(POOLS):
        most = tl.load(kept + b * POOLS + pool)
        out = tl.load(hidden + (b * POOLS + pool) * R + r, mask=r < R, other=1) != 0
        mine = tl.where(there & (out == 0)[None, :], rank, -1)
        least = tl.zeros([SP], tl.int64)
        for step in range(32):  # a loop: laid out in a row, its steps spill registers
            higher = least | (tl.full([SP], 1, tl.int64) << (31 - step))
            reach = tl.sum((mine >= higher[:, None]).to(tl.int32), 1)
            least = tl.where(reach >= most, higher, least)
        above, level = (mine > least[:, None]).to(tl.int32), (mine == least[:, None]).to(tl.int32)
        spare = most - tl.sum(above, 1)
        take = above | (level & (tl.cumsum(level, 1) <= spare[:, None]).to(tl.int32))
        picked |= tl.where(most > 0, take, 0)
    mark = tl.sum(picked << i[:, None], 0)
    if S == 1:
        mark *= (1 << P) - 1
    wanted = (mark != 0).to(tl.int32)
    place = item * U + tl.cumsum(wanted, 0) - 1
    tl.store(listed + place, r, mask=wanted != 0)
    tl.store(marks + place, mark, mask=wanted != 0)
    tl.store(count + item, tl.sum(wanted, 0))


@triton.jit
def _take_in(top, total, acc, q, k, v, at, allowed, some, d, D, scale):
    """Online softmax: rows `at` of k and v, int64 [N], under allowed [M, N]; `some` [N] are read."""
    where, mask = at[:, None] * D + d[None, :], some[:, None] & (d < D)[None, :]
    keys, values = tl.load(k + where, mask=mask, other=0.0), tl.load(v + where, mask=mask, other=0.0)
    s = tl.dot(q, tl.trans(keys), input_precision=PRECISION) * scale
    s = tl.where(allowed, s, float("-inf"))
    peak = tl.maximum(top, tl.max(s, 1))
    safe = tl.where(peak == float("-inf"), 0.0, peak)
    weight, shrink = tl.exp(s - safe[:, None]), tl.exp(top - safe)
    acc = acc * shrink[:, None] + tl.dot(weight.to(values.dtype), values, input_precision=PRECISION)
    return peak, total * shrink + tl.sum(weight, 1), acc


@triton.jit(do_not_specialize=["G", "R", "U", "C", "room", "slots", "page_parts", "row_step", "group_step"])
def attend(
    q, page_keys, page_values, text_context_keys, text_context_values, listed, marks, count, page_seen,
    text_context_seen, part_out, part_lse, scale, G, R, U, C, room, slots, page_parts, row_step, group_step,
    P: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """One part of an item's keys, for all its query heads: of the listed pages in the first `page_parts` programs, of
    the text and context columns in the others. Keys of different pages share a tile."""
    item, part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    parts = tl.num_programs(1)
    b, g = item // G, item % G
    d, h = tl.arange(0, DP), tl.arange(0, M)
    row = item * P + h
    queries = tl.load(q + row[:, None] * D + d[None, :], mask=(h < P)[:, None] & (d < D)[None, :], other=0.0)
    top, total = tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32)
    acc = tl.zeros([M, DP], tl.float32)
    if part < page_parts:
        pages = tl.load(count + item).to(tl.int64)
        first, end = pages * part // page_parts * slots, pages * (part + 1) // page_parts * slots
        for start in range(first, end, N):
            n = start + tl.arange(0, N)
            entry = item * U + n // slots
            mark = tl.load(marks + entry, mask=n < end, other=0)
            at = tl.load(listed + entry, mask=n < end, other=0).to(tl.int64) * slots + n % slots
            some = (mark != 0) & (tl.load(page_seen + b * R * slots + at, mask=mark != 0, other=0) != 0)
            allowed = ((mark[None, :] >> h[:, None]) & 1 != 0) & some[None, :]
            at += item * room * slots
            top, total, acc = _take_in(top, total, acc, queries, page_keys, page_values, at, allowed, some, d, D, scale)
    else:
        wide = tl.cdiv(C, parts - page_parts)
        first = (part - page_parts) * wide
        end = tl.minimum(first + wide, C)
        here = b * row_step + g * group_step
        for start in range(first, end, N):
            n = start + tl.arange(0, N)
            some = n < end
            some = some & (tl.load(text_context_seen + b * C + n, mask=some, other=0) != 0)
            allowed = some[None, :] & (h < P)[:, None]
            top, total, acc = _take_in(
                top, total, acc, queries, text_context_keys + here, text_context_values + here, n, allowed, some, d, D,
                scale,
            )  # fmt: skip
    out = (item * parts + part) * P + h
    safe = tl.where(total == 0, 1.0, total)
    mask = (h < P)[:, None] & (d < D)[None, :]
    tl.store(part_out + out[:, None] * D + d[None, :], acc / safe[:, None], mask=mask)
    tl.store(part_lse + out, top + tl.log(safe), mask=h < P)


@triton.jit(do_not_specialize=["Z"])
def merge(part_out, part_lse, out, Z, P: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, ZP: tl.constexpr):
    """One query head: its parts, weighted by their log-sum-exps."""
    row = tl.program_id(0).to(tl.int64)
    z, d = tl.arange(0, ZP), tl.arange(0, DP)
    part = (row // P * Z + z) * P + row % P
    lse = tl.load(part_lse + part, mask=z < Z, other=float("-inf"))
    weight = tl.exp(lse - tl.max(lse, 0))
    at, mask = part_out + part[:, None] * D + d[None, :], (z < Z)[:, None] & (d < D)[None, :]
    mixed = tl.sum(tl.load(at, mask=mask, other=0.0) * weight[:, None], 0) / tl.sum(weight, 0)
    tl.store(out + row * D + d, mixed.to(out.dtype.element_ty), mask=d < D)
