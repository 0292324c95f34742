"""`masked` by rows: beside the full square, and what it allocates."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cambrian_gaze.attention import GazeContext, GazeRecorder, attend, masked, masks, prepare
from cambrian_gaze.attention.counted import at_queries
from cambrian_gaze.attention.varlen.blocks import PlainBlocks
from cambrian_gaze.bench.attention_cases import AttentionCase
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.layout import PAD
from cambrian_gaze.gaze.visibility import offered_any, regions_offered
from cambrian_gaze.models.cache.cache import GazeCache
from tests._layouts import build, draw_case
from tests.attention._run import context, gradients, real, reference, run
from tests.attention._square import square_attention

OPTIONS = [
    {},
    {"visual_queries": "unit"},
    {"visual_queries": "gaze"},
    {"visual_sees_context": False},
    {"context_visible": False},
    {"visual_queries": "unit", "visual_sees_context": False},
    {"dense_layers": (0,)},
]
ROWS = [
    [
        [("text", (3,)), ("image", (1, 6, 6)), ("text", (5,))],
        [("image", (1, 2, 4)), ("text", (2,)), ("video", (3, 4, 4))],
    ],
    [[("video", (2, 4, 4)), ("text", (4,)), ("image", (1, 4, 4)), ("image", (1, 4, 4)), ("text", (9,))]],
    [[("text", (7,))]],
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("block", [1, 2**10, 2**24])
def test_equals_the_square(monkeypatch, options, left, block):
    """Packed and padded rows, blocks of any size, masks saved or made again in the backward pass."""
    monkeypatch.setattr(masks, "BLOCK_PAIRS", block)
    monkeypatch.setattr(masks, "SAVED_PAIRS", 0 if block == 1 else 2**22)
    config = GazeConfig(image=RegionBudget((1, 2, 2), top_k=2), num_context_tokens=2, backend="masked", **options)
    layout = build(ROWS, config, left=left).layout()
    generator = torch.Generator().manual_seed(0)
    shape = (3, layout.shape[1], 8)
    inputs = tuple(
        torch.randn(3, n, *shape[1:], generator=generator, dtype=torch.float64).requires_grad_() for n in (4, 2, 2)
    )
    saved = {}
    where = real(layout, 4)
    got = run(*inputs, layout, config, saved=saved)
    regions = None
    if saved:
        regions = at_queries(saved[0], tokens_that_choose(layout, config), layout.shape[1])
    want = square_attention(*inputs, layout, config, regions)
    assert torch.allclose(got[where], want[where], atol=1e-12)
    for a, b in zip(gradients(got, inputs, where), gradients(want, inputs, where), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def tokens_that_choose(layout, config):
    ctx = prepare(context(layout, config), torch.device("cpu"), torch.float64)
    return ctx.prepared.own.choosing.tokens


@pytest.mark.parametrize("seed", range(12))
def test_the_varlen_pass_over_packed_samples(monkeypatch, seed):
    """What runs on a GPU, by plain torch's varlen."""
    case, layout, tensors, want, want_grads, _ = reference(seed)
    monkeypatch.setattr(masked, "_varlen", lambda q, rows, dropout: PlainBlocks() if rows.samples else None)
    inputs = tuple(x.requires_grad_() for x in tensors)
    out = run(*inputs, layout, dataclasses.replace(case.config, backend="masked"))
    where = real(layout, case.heads)
    assert torch.allclose(out[where], want[where], atol=1e-11)
    for got, expected in zip(gradients(out, inputs, where), want_grads, strict=True):
        assert torch.allclose(got, expected, atol=1e-11)


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("visual_queries", ["causal", "gaze"])
def test_which_queries_are_offered_a_region(seed, visual_queries):
    case = draw_case(seed, visual_queries=visual_queries)
    layout = case.batch.layout()
    assert torch.equal(offered_any(layout, case.config), regions_offered(layout, case.config).any(-1))


class Largest(TorchDispatchMode):
    """The largest storage, in bytes, that an operator returned and that was not there before."""

    def __init__(self, *known):
        super().__init__()
        self.known = {x.untyped_storage().data_ptr() for x in known}
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in self.known:
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("counts", [False, True])
def test_the_largest_tensor_of_a_long_prefill(counts):
    """9,216 visual tokens, layout, cache, choice and counting included: a head's square alone would be 82 MiB of
    booleans, 327 of fp32."""
    case = AttentionCase(128, 9216, 2, 1, 8, 0.125, "q_head", "fp32", "cpu")
    inputs = q, k, v = case.tensors()
    with torch.no_grad(), Largest(*inputs) as largest:
        layout, cache = case.derive(), GazeCache(case.config)
        cache.extend(layout)
        recorder = GazeRecorder(num_regions=layout.num_regions) if counts else None
        ctx = GazeContext(config=case.config, layout=layout, key_layout=layout, cache=cache, recorder=recorder)
        prepare(ctx, q.device, q.dtype)
        attend(q, *cache.update(k, v, 0), ctx, layer=0, scaling=0.3)
    rows = 2 * 128 * case.length * 4  # the masks of the queries that choose, in fp32
    assert largest.bytes <= 1.2 * rows < case.length**2 / 4


def test_the_largest_tensor_of_a_training_step():
    case = AttentionCase(128, 4608, 2, 1, 8, 0.125, "q_head", "fp32", "cpu")
    inputs = tuple(x.requires_grad_() for x in case.tensors())
    with Largest(*inputs) as largest:
        call, _, _ = case.arm("masked", None, inputs)
        torch.autograd.grad(call().sum(), inputs)
    assert largest.bytes <= 1.2 * 2 * 128 * case.length * 4 < case.length**2


def test_a_row_of_padding_is_a_number():
    config = GazeConfig(image=RegionBudget((1, 2, 2), top_k=2), backend="masked")
    layout = build([[[("text", (2,))]], [[("text", (1,))]]], config, min_length=6).layout()
    assert (layout.role == PAD).any()
    q, k, v = (torch.randn(2, n, 6, 8) for n in (4, 2, 2))
    assert run(q, k, v, layout, config).isfinite().all()
