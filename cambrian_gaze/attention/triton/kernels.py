"""The Triton code of `backend.py`: five kernels, none of which writes where another program writes.

Legend: B rows, H query heads, G KV heads, P = H/G, HS heads that select (H or G), T routing queries, S keys, F text
and context keys, R blocks (a region, or a piece of a large one), K blocks per query, D head size (DP: its power
of two). q, out and their gradients are [B, H, T, D], contiguous; k and v [B, G, S, D] with strides; what a query gets
from each of its blocks is a part, [B, H, T, K, D].

A program works on tiles of M rows, which are (query, head) pairs, the heads of a KV head side by side: P need not be a
power of two, and keys are read once for all of them. Sums are fp32. Offsets are int64: parts outgrow 2^31 elements.
"""

import triton
import triton.language as tl

PRECISION = tl.constexpr("tf32x3")
"""Of products of fp32 tiles: three tensor-core products, nearly fp32. Says nothing for bf16 and fp16."""

SIZES = ["G", "R", "S", "T", "F", "HS", "K", "share", "slots"]
"""Differ from batch to batch, and must not compile a kernel anew."""


@triton.jit
def _tile(x, row, there, d, D):
    """[M, DP] of a tensor whose rows of D elements lie at number `row`; 0 where there is none."""
    return tl.load(x + row[:, None] * D + d[None, :], mask=there[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def _put(x, row, there, d, D, value):
    at = x + row[:, None] * D + d[None, :]
    tl.store(at, value.to(x.dtype.element_ty), mask=there[:, None] & (d < D)[None, :])


@triton.jit
def _keys(x, b, g, at, there, x_b, x_g, x_s, d, D):
    """[N, DP]: the keys (or values) at places `at` of row b and KV head g; 0 where there is none."""
    where = x + b * x_b + g * x_g + at[:, None] * x_s + d[None, :]
    return tl.load(where, mask=there[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def _entry(entries, i, there, b, T, HS, K, share):
    """Row of [B·H·T] and of [B·H·T·K] of the i-th (query, head) pair of a block's list; `share` heads per entry."""
    entry = tl.load(entries + i // share, mask=there, other=0)
    head = entry // (T * K) % HS * share + i % share
    row = (b * HS * share + head) * T + entry // K % T
    return row, row * K + entry % K


@triton.jit
def _group_rows(r, b, g, T, H, P: tl.constexpr):
    """Query and row of [B·H·T] of the r-th (query, head) pair of a KV head."""
    t = r // P
    return t, (b * H + g * P + r % P) * T + t


@triton.jit
def _block(table, G, R, slots, N: tl.constexpr):
    """The (block, KV head) of a program: its number, row, KV head, the places of its keys, and which of them are
    there."""
    owner = tl.program_id(0).to(tl.int64)
    b, g, block = owner // (G * R), owner // R % G, owner % R
    n = tl.arange(0, N)
    at = tl.load(table + (b * R + block) * slots + n, mask=n < slots, other=-1)
    return owner, b, g, at, at >= 0


@triton.jit
def _window(first, last, b, t, there, T, F):
    """First and end of the text and context keys that each query sees; nothing where there is no query."""
    low = tl.load(first + b * T + t, mask=there, other=F)
    return low, tl.load(last + b * T + t, mask=there, other=0)


@triton.jit
def _known_rows(q, dout, lse, delta, row, there, d, D):
    """What the backward reads of each row: query, gradient of the output, log-sum-exp, and delta."""
    norm, shift = tl.load(lse + row, mask=there, other=0.0), tl.load(delta + row, mask=there, other=0.0)
    return _tile(q, row, there, d, D), _tile(dout, row, there, d, D), norm, shift


@triton.jit
def _logits(q, keys, scale):
    return tl.dot(q, tl.trans(keys), input_precision=PRECISION) * scale


@triton.jit
def _gradients(q, keys, values, dout, lse, delta, seen, scale):
    """Weights and gradient of the logits, fp32 [M, N], from the softmax's final log-sum-exp."""
    weight = tl.where(seen, tl.exp(_logits(q, keys, scale) - lse[:, None]), 0.0)
    dweight = tl.dot(dout, tl.trans(values), input_precision=PRECISION)
    return weight, weight * (dweight - delta[:, None]) * scale


@triton.jit(do_not_specialize=SIZES)
def blocks_forward(
    q, k, v, table, offsets, entries, part_out, part_lse, scale, k_b, k_g, k_s, v_b, v_g, v_s, G, R, T, HS, K, share,
    slots, D: tl.constexpr, DP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """One (block, KV head): the outputs and log-sum-exps of the queries that chose the block, over its keys alone.

    A popular block is split over the programs of axis 1, by tiles of its list.
    """
    d = tl.arange(0, DP)
    owner, b, g, at, real = _block(table, G, R, slots, N)
    keys, values = _keys(k, b, g, at, real, k_b, k_g, k_s, d, D), _keys(v, b, g, at, real, v_b, v_g, v_s, d, D)
    begin, end = tl.load(offsets + owner) * share, tl.load(offsets + owner + 1) * share
    for start in range(begin + tl.program_id(1) * M, end, tl.num_programs(1) * M):
        i = start + tl.arange(0, M)
        there = i < end
        row, part = _entry(entries, i, there, b, T, HS, K, share)
        s = tl.where(real[None, :], _logits(_tile(q, row, there, d, D), keys, scale), float("-inf"))
        top = tl.max(s, 1)
        weight = tl.exp(s - tl.where(top == float("-inf"), 0.0, top)[:, None])
        total = tl.sum(weight, 1)
        o = (
            tl.dot(weight.to(values.dtype), values, input_precision=PRECISION)
            / tl.where(total == 0, 1.0, total)[:, None]
        )
        _put(part_out, part, there, d, D, o)
        tl.store(part_lse + part, top + tl.log(tl.where(total == 0, 1.0, total)), mask=there)


@triton.jit(do_not_specialize=SIZES)
def rows_forward(
    q, k, v, first, last, key_at, blocks, part_out, part_lse, out, lse, scale, k_b, k_g, k_s, v_b, v_g, v_s, G, T, F,
    HS, K, share, P: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """M rows of one KV head: online softmax over the text and context keys first[t] … last[t]-1, then the parts of the
    K blocks."""
    pair = tl.program_id(1).to(tl.int64)
    b, g = pair // G, pair % G
    d = tl.arange(0, DP)
    t, row = _group_rows(tl.program_id(0) * M + tl.arange(0, M), b, g, T, G * P, P)
    there = t < T
    low, high = _window(first, last, b, t, there, T, F)
    end = tl.max(high, 0)
    rows = _tile(q, row, there, d, D)
    top = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, DP], tl.float32)
    for start in range(tl.min(low, 0), end, N):
        n = start + tl.arange(0, N)
        real = n < end
        at = tl.load(key_at + b * F + n, mask=real, other=0)
        s = _logits(rows, _keys(k, b, g, at, real, k_b, k_g, k_s, d, D), scale)
        s = tl.where((n[None, :] >= low[:, None]) & (n[None, :] < high[:, None]), s, float("-inf"))
        peak = tl.maximum(top, tl.max(s, 1))
        safe = tl.where(peak == float("-inf"), 0.0, peak)
        weight = tl.exp(s - safe[:, None])
        shrink = tl.exp(top - safe)
        values = _keys(v, b, g, at, real, v_b, v_g, v_s, d, D)
        acc = acc * shrink[:, None] + tl.dot(weight.to(values.dtype), values, input_precision=PRECISION)
        total = total * shrink + tl.sum(weight, 1)
        top = peak
    choice = (row // T // share * T + t) * K
    for kept in range(K):
        chosen = tl.load(blocks + choice + kept, mask=there, other=-1) >= 0
        part = row * K + kept
        other = tl.load(part_lse + part, mask=chosen, other=float("-inf"))
        peak = tl.maximum(top, other)
        safe = tl.where(peak == float("-inf"), 0.0, peak)
        shrink, weight = tl.exp(top - safe), tl.exp(other - safe)
        acc = acc * shrink[:, None] + _tile(part_out, part, chosen, d, D) * weight[:, None]
        total = total * shrink + weight
        top = peak
    _put(out, row, there, d, D, acc / tl.where(total == 0, 1.0, total)[:, None])
    tl.store(lse + row, top + tl.log(tl.where(total == 0, 1.0, total)), mask=there)


@triton.jit(do_not_specialize=SIZES)
def blocks_backward(
    q, k, v, dout, lse, delta, table, offsets, entries, part_dq, dk, dv, scale, k_b, k_g, k_s, v_b, v_g, v_s, G, R, S,
    T, HS, K, share, slots, D: tl.constexpr, DP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """One (block, KV head) owns dk and dv of the block's keys: it goes through its list in order. The list's share of
    dq goes into the parts, which `rows_backward` sums."""
    d = tl.arange(0, DP)
    owner, b, g, at, real = _block(table, G, R, slots, N)
    keys, values = _keys(k, b, g, at, real, k_b, k_g, k_s, d, D), _keys(v, b, g, at, real, v_b, v_g, v_s, d, D)
    sum_k, sum_v = tl.zeros([N, DP], tl.float32), tl.zeros([N, DP], tl.float32)
    begin, end = tl.load(offsets + owner) * share, tl.load(offsets + owner + 1) * share
    for start in range(begin, end, M):
        i = start + tl.arange(0, M)
        there = i < end
        row, part = _entry(entries, i, there, b, T, HS, K, share)
        rows, drows, norm, shift = _known_rows(q, dout, lse, delta, row, there, d, D)
        seen = there[:, None] & real[None, :]
        weight, ds = _gradients(rows, keys, values, drows, norm, shift, seen, scale)
        sum_v += tl.dot(tl.trans(weight.to(drows.dtype)), drows, input_precision=PRECISION)
        sum_k += tl.dot(tl.trans(ds.to(rows.dtype)), rows, input_precision=PRECISION)
        _put(part_dq, part, there, d, D, tl.dot(ds.to(keys.dtype), keys, input_precision=PRECISION))
    _put(dk, (b * G + g) * S + at, real, d, D, sum_k)
    _put(dv, (b * G + g) * S + at, real, d, D, sum_v)


@triton.jit(do_not_specialize=SIZES)
def rows_backward(
    q, k, v, dout, lse, delta, first, last, key_at, blocks, part_dq, dq, scale, k_b, k_g, k_s, v_b, v_g, v_s, G, T, F,
    HS, K, share, P: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """M rows of one KV head own their dq: over the text and context keys, then the parts of the K blocks, in order."""
    pair = tl.program_id(1).to(tl.int64)
    b, g = pair // G, pair % G
    d = tl.arange(0, DP)
    t, row = _group_rows(tl.program_id(0) * M + tl.arange(0, M), b, g, T, G * P, P)
    there = t < T
    low, high = _window(first, last, b, t, there, T, F)
    end = tl.max(high, 0)
    rows, drows, norm, shift = _known_rows(q, dout, lse, delta, row, there, d, D)
    acc = tl.zeros([M, DP], tl.float32)
    for start in range(tl.min(low, 0), end, N):
        n = start + tl.arange(0, N)
        real = n < end
        at = tl.load(key_at + b * F + n, mask=real, other=0)
        keys, values = _keys(k, b, g, at, real, k_b, k_g, k_s, d, D), _keys(v, b, g, at, real, v_b, v_g, v_s, d, D)
        seen = (n[None, :] >= low[:, None]) & (n[None, :] < high[:, None])
        _, ds = _gradients(rows, keys, values, drows, norm, shift, seen, scale)
        acc += tl.dot(ds.to(keys.dtype), keys, input_precision=PRECISION)
    choice = (row // T // share * T + t) * K
    for kept in range(K):
        chosen = tl.load(blocks + choice + kept, mask=there, other=-1) >= 0
        acc += _tile(part_dq, row * K + kept, chosen, d, D)
    _put(dq, row, there, d, D, acc)


@triton.jit(do_not_specialize=SIZES)
def text_context_backward(
    q, k, v, dout, lse, delta, first, last, key_at, row_first, row_last, dk, dv, scale, k_b, k_g, k_s, v_b, v_g, v_s, G,
    S, T, F, P: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """N text and context keys of one KV head own their dk and dv: over the queries that see them, in order."""
    pair = tl.program_id(1).to(tl.int64)
    b, g = pair // G, pair % G
    d = tl.arange(0, DP)
    n = tl.program_id(0) * N + tl.arange(0, N)
    at = tl.load(key_at + b * F + n, mask=n < F, other=-1)
    real = at >= 0
    keys, values = _keys(k, b, g, at, real, k_b, k_g, k_s, d, D), _keys(v, b, g, at, real, v_b, v_g, v_s, d, D)
    begin = tl.min(tl.load(row_first + b * F + n, mask=real, other=T), 0) * P
    end = tl.max(tl.load(row_last + b * F + n, mask=real, other=0), 0) * P
    sum_k, sum_v = tl.zeros([N, DP], tl.float32), tl.zeros([N, DP], tl.float32)
    for start in range(begin, end, M):
        r = start + tl.arange(0, M)
        there = r < end
        t, row = _group_rows(r, b, g, T, G * P, P)
        low, high = _window(first, last, b, t, there, T, F)
        rows, drows, norm, shift = _known_rows(q, dout, lse, delta, row, there, d, D)
        seen = (n[None, :] >= low[:, None]) & (n[None, :] < high[:, None])
        weight, ds = _gradients(rows, keys, values, drows, norm, shift, seen, scale)
        sum_v += tl.dot(tl.trans(weight.to(drows.dtype)), drows, input_precision=PRECISION)
        sum_k += tl.dot(tl.trans(ds.to(rows.dtype)), rows, input_precision=PRECISION)
    _put(dk, (b * G + g) * S + at, real, d, D, sum_k)
    _put(dv, (b * G + g) * S + at, real, d, D, sum_v)
