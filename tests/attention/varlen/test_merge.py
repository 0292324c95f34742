"""Merging partial attentions: outputs and gradients, and what goes wrong where the LSE carries no gradient."""

import pytest
import torch
from torch import Tensor

from cambrian_gaze.attention.varlen.blocks import PlainBlocks, TorchVarlenBlocks
from cambrian_gaze.attention.varlen.merge import MergedGradient, Piece, Segments, merged_attention

TOKENS, HEADS, GROUPS, DIM = 7, 4, 2, 4
SCALING = 0.6


def draw(tokens=TOKENS, heads=HEADS, groups=GROUPS, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    shapes = ((tokens, heads, DIM), (tokens, groups, DIM), (tokens, groups, DIM))
    return tuple((scale * torch.randn(s, generator=generator, dtype=dtype)).requires_grad_() for s in shapes)


def piece(q_rows, k_rows, cu_q, cu_k, causal=False, targets=None, slot=None, **options) -> Piece:
    """A piece whose every query row is kept, unless `targets` and `slot` say otherwise."""
    cu_q, cu_k, q_rows, k_rows = (torch.tensor(x) for x in (cu_q, cu_k, q_rows, k_rows))
    segments = Segments(cu_q.int(), cu_k.int(), int(cu_q.diff().max()), int(cu_k.diff().max()), causal)
    targets = q_rows if targets is None else torch.tensor(targets)
    slot = torch.arange(len(q_rows)) if slot is None else torch.tensor(slot)
    return Piece(segments, q_rows, k_rows, targets, slot, **options)


def three_pieces() -> tuple[list[Piece], Tensor]:
    """Keys 0 … 6 in three pieces, and which keys each (query, head) sees: bool [T, H, T].

    First keys 0 to 2, causally, with queries 0 and 2 kept and query 1 as a filler; then keys 3 and 4 for queries 2 and
    5; then, by head, a choice of keys 5 and 6 as two segments of one key.
    """
    seen = torch.zeros(TOKENS, HEADS, TOKENS, dtype=torch.bool)
    seen[0, :, 0] = seen[2, :, :3] = True
    seen[[2, 5], :, 3:5] = True
    pairs = [(2, 0, 5), (2, 3, 5), (5, 1, 5), (2, 0, 6), (5, 0, 6)]  # query, head, key
    segments: dict[tuple[int, int], list[int]] = {}
    for query, head, key in pairs:
        seen[query, head, key] = True
        segments.setdefault((key, head * GROUPS // HEADS), []).append(query * HEADS + head)
    rows = [row for members in segments.values() for row in members]
    targets = sorted(set(rows))
    filled: dict[int, int] = {}
    slot = []
    for row in rows:
        slot.append(targets.index(row) * 2 + filled.setdefault(row, 0))
        filled[row] += 1
    cu_q = [0, *torch.tensor([len(members) for members in segments.values()]).cumsum(0).tolist()]
    return [
        piece([0, 1, 2], [0, 1, 2], [0, 3], [0, 3], causal=True, targets=[0, 2], slot=[0, 2, 1], fresh=True),
        piece([2, 5], [3, 4], [0, 2], [0, 2]),
        piece(
            rows,
            [key * GROUPS + group for key, group in segments],
            cu_q,
            list(range(len(segments) + 1)),
            targets=targets,
            slot=slot,
            fold=2,
            by_head=True,
        ),
    ], seen


def dense(q, k, v, seen) -> Tensor:
    """Attention under bool [T, H, T]; 0 where a row sees nothing."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    logits = torch.einsum("ihd,jhd->ihj", q, k) * SCALING
    logits = logits.masked_fill(~seen, -1e300)
    weight = logits.softmax(-1) * seen.any(-1, keepdim=True)
    return torch.einsum("ihj,jhd->ihd", weight, v)


def gradients(out: Tensor, inputs) -> tuple[Tensor, ...]:
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.autograd.grad((out * weight.to(out.dtype)).sum(), inputs)


def test_the_merge_is_attention_over_all_keys():
    pieces, seen = three_pieces()
    inputs = draw()
    out, lse = merged_attention(*inputs, pieces, PlainBlocks(), SCALING)
    want = dense(*inputs, seen)
    assert torch.allclose(out, want, atol=1e-13)
    assert torch.equal(lse.isfinite(), seen.any(-1)) and not lse.requires_grad
    for got, expected in zip(gradients(out, inputs), gradients(want, inputs), strict=True):
        assert torch.allclose(got, expected, atol=1e-13)


def test_gradcheck():
    pieces, _ = three_pieces()
    assert torch.autograd.gradcheck(lambda *x: merged_attention(*x, pieces, PlainBlocks(), SCALING)[0], draw())


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_the_order_of_the_pieces_does_not_matter(order):
    pieces, _ = three_pieces()
    pieces[0] = piece([0, 1, 2], [0, 1, 2], [0, 3], [0, 3], causal=True, targets=[0, 2], slot=[0, 2, 1])
    inputs = draw()
    want, _ = merged_attention(*inputs, pieces, PlainBlocks(), SCALING)
    out, _ = merged_attention(*inputs, [pieces[n] for n in order], PlainBlocks(), SCALING)
    assert torch.allclose(out, want, atol=1e-14)
    for got, expected in zip(gradients(out, inputs), gradients(want, inputs), strict=True):
        assert torch.allclose(got, expected, atol=1e-13)


class LseWithoutGradient(torch.autograd.Function):
    """A block as FlashAttention offers it: the gradient of the LSE is dropped."""

    @staticmethod
    def forward(ctx, q, k, v, segments):
        out, lse = PlainBlocks().forward(q, k, v, segments, SCALING)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.segments = segments
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse):
        q, k, v, out, lse = ctx.saved_tensors
        return *PlainBlocks().backward(MergedGradient(dout, out, lse), q, k, v, ctx.segments, SCALING), None


def test_merging_by_ordinary_autograd_is_wrong_and_ours_is_right():
    """Two halves of the keys. The values' gradients are right either way; those of queries and keys are far off."""
    inputs = draw()
    cut = TOKENS // 2
    rows = list(range(TOKENS))
    halves = [
        piece(rows, rows[:cut], [0, TOKENS], [0, cut]),
        piece(rows, rows[cut:], [0, TOKENS], [0, TOKENS - cut]),
    ]
    q, k, v = inputs
    parts = [LseWithoutGradient.apply(q, k[p.k_rows], v[p.k_rows], p.segments) for p in halves]
    outs, lses = (torch.stack(x) for x in zip(*parts, strict=True))
    naive = (lses.softmax(0)[..., None] * outs).sum(0)
    ours, _ = merged_attention(*inputs, halves, PlainBlocks(), SCALING)
    want = dense(*inputs, torch.ones(TOKENS, HEADS, TOKENS, dtype=torch.bool))
    assert torch.allclose(naive, want) and torch.allclose(ours, want), "the outputs agree, so nothing is noticed"
    expected = gradients(want, inputs)
    for got, right in zip(gradients(ours, inputs), expected, strict=True):
        assert torch.allclose(got, right, atol=1e-13)
    off = [(a - b).norm() / b.norm() for a, b in zip(gradients(naive, inputs), expected, strict=True)]
    assert off[0] > 0.1 and off[1] > 0.1 and off[2] < 1e-12


def test_empty_segments_give_nothing_and_break_nothing():
    """Segments without queries, without keys and without either."""
    inputs = draw()
    some = piece([1, 2, 4], [0, 1, 3], [0, 0, 1, 3, 3, 3], [0, 2, 2, 3, 3, 3])
    out, lse = merged_attention(*inputs, [some], PlainBlocks(), SCALING)
    seen = torch.zeros(TOKENS, HEADS, TOKENS, dtype=torch.bool)
    seen[[2, 4], :, 3] = True
    want = dense(*inputs, seen)
    assert torch.allclose(out, want, atol=1e-14)
    assert lse[1].isneginf().all() and not out[1].any(), "a query without keys"
    for got, expected in zip(gradients(out, inputs), gradients(want, inputs), strict=True):
        assert torch.allclose(got, expected, atol=1e-13)
    rest = piece([1, 2], [5, 6], [0, 2], [0, 2])
    seen[[1, 2], :, 5:] = True
    both, _ = merged_attention(*inputs, [some, rest], PlainBlocks(), SCALING)
    assert torch.allclose(both, dense(*inputs, seen), atol=1e-14)


def test_a_causal_segment_ends_with_its_last_key():
    """Fewer queries than keys: FlashAttention's convention since 2.1."""
    inputs = draw()
    out, _ = merged_attention(
        *inputs, [piece([0, 3, 4], [0, 1, 2, 3, 4], [0, 1, 3], [0, 2, 5], causal=True)], PlainBlocks(), SCALING
    )
    seen = torch.zeros(TOKENS, HEADS, TOKENS, dtype=torch.bool)
    seen[0, :, :2] = seen[3, :, 2:4] = seen[4, :, 2:5] = True
    assert torch.allclose(out, dense(*inputs, seen), atol=1e-14)


def test_large_logits_and_bf16():
    pieces, seen = three_pieces()
    inputs = draw(dtype=torch.bfloat16, scale=30.0)
    out, lse = merged_attention(*inputs, pieces, PlainBlocks(), SCALING)
    assert out.dtype == torch.bfloat16 and lse.dtype == torch.float32
    wide = tuple(x.detach().double().requires_grad_() for x in inputs)
    assert torch.allclose(out.double(), dense(*wide, seen), rtol=2e-2, atol=1e-3)
    for grad in gradients(out, inputs):
        assert grad.dtype == torch.bfloat16 and grad.isfinite().all()


def test_torch_varlen_takes_this_call():
    """Names, dtypes and shapes against torch's own shape functions, without a GPU."""
    q, k = (
        torch.empty(6, HEADS, 64, dtype=torch.bfloat16, device="meta"),
        torch.empty(9, GROUPS, 64, dtype=torch.bfloat16, device="meta"),
    )
    cu = torch.empty(3, dtype=torch.int32, device="meta")
    segments = Segments(cu, cu, 4, 5, causal=True)
    op = TorchVarlenBlocks()
    out, lse = op.forward(q, k, k, segments, SCALING)
    assert out.shape == q.shape and lse.shape == (6, HEADS) and lse.dtype == torch.float32
    dq, dk, dv = op.backward(MergedGradient(out, out, lse), q, k, k, segments, SCALING)
    assert (dq.shape, dk.shape, dv.shape) == (q.shape, k.shape, k.shape)


def test_more_segments_than_a_grid_has_rows_are_refused():
    q = torch.empty(65_536, 1, 64, dtype=torch.bfloat16, device="meta")
    cu = torch.empty(len(q) + 1, dtype=torch.int32, device="meta")
    with pytest.raises(ValueError, match="65536 segments.*65535"):
        TorchVarlenBlocks().forward(q, q, q, Segments(cu, cu, 1, 1, causal=False), SCALING)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "groups", "dim"), [(1, 1, 128), (4, 1, 64), (28, 4, 128), (32, 8, 128), (6, 6, 8)])
def test_torch_varlen_blocks_on_a_gpu(dtype, causal, heads, groups, dim):
    """Ragged segments, with more keys than queries and with a single query; `out` and `lse` of more keys than these."""
    q_sizes, k_sizes = [1, 3, 70, 1, 130], [1, 36, 70, 9, 200]
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, device="cuda").to(dtype)

    def cumulative(sizes):
        return torch.tensor([0, *sizes], device="cuda").cumsum(0).int()

    q, k, v = normal(sum(q_sizes), heads, dim), normal(sum(k_sizes), groups, dim), normal(sum(k_sizes), groups, dim)
    segments = Segments(cumulative(q_sizes), cumulative(k_sizes), max(q_sizes), max(k_sizes), causal)
    scaling = dim**-0.5
    want = PlainBlocks().forward(q.double(), k.double(), v.double(), segments, scaling)
    got = TorchVarlenBlocks().forward(q, k, v, segments, scaling)
    for a, b in zip(got, want, strict=True):
        assert (a.double() - b).norm() < 1e-2 * b.norm()
    out, lse, dout = normal(*q.shape), (want[1] + 0.7).float(), normal(*q.shape)
    dout[::5], lse[::5] = 0.0, torch.inf  # fillers
    wide = MergedGradient(*(x.double() for x in (dout, out, lse)))
    want = PlainBlocks().backward(wide, *(x.double() for x in (q, k, v)), segments, scaling)
    got = TorchVarlenBlocks().backward(MergedGradient(dout, out, lse), q, k, v, segments, scaling)
    for a, b in zip(got, want, strict=True):
        assert a.isfinite().all() and (a.double() - b).norm() < 1.5e-2 * b.norm()


@pytest.mark.gpu
def test_torch_varlen_with_a_single_query_in_each_segment():
    """`max_q` of 1 would take FlashAttention's decoding path."""
    q, k = torch.randn(5, 8, 64, device="cuda").bfloat16(), torch.randn(45, 2, 64, device="cuda").bfloat16()
    cu_q, cu_k = torch.arange(6, device="cuda").int(), (9 * torch.arange(6, device="cuda")).int()
    segments = Segments(cu_q, cu_k, 1, 9, causal=True)
    want = PlainBlocks().forward(q.double(), k.double(), k.double(), segments, SCALING)
    got = TorchVarlenBlocks().forward(q, k, k, segments, SCALING)
    for a, b in zip(got, want, strict=True):
        assert (a.double() - b).norm() < 1e-2 * b.norm()
