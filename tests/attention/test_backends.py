"""Every backend that runs on a CPU against the oracle: outputs and gradients; and what must not change them."""

import dataclasses

import pytest
import torch

from cambrian_gaze.attention import BACKENDS, prepare
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.layout import PAD, TEXT, VISUAL
from cambrian_gaze.gaze.oracle import oracle_attention
from tests._layouts import build, draw_case, draw_tensors
from tests.attention._run import CPU_BACKENDS, DIM, SCALING, context, gradients, real, reference, run

pytestmark = pytest.mark.parametrize("backend", CPU_BACKENDS)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}


def close(a, b, dtype):
    return torch.allclose(a.double(), b.double(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def check_against_the_oracle(backend, dtype, seed, **options):
    case, layout, tensors, want, want_grads, _ = reference(seed, **options)
    inputs = tuple(x.to(dtype).requires_grad_() for x in tensors)
    out = run(*inputs, layout, dataclasses.replace(case.config, backend=backend))
    where = real(layout, case.heads)
    assert out.dtype == dtype and out.isfinite().all(), "padding included"
    assert close(out[where], want[where], dtype)
    for got, expected, name in zip(gradients(out, inputs, where), want_grads, "qkv", strict=True):
        assert got.isfinite().all() and close(got, expected, dtype), f"d{name}"


@DTYPES
@pytest.mark.parametrize("seed", range(24))
def test_equals_the_oracle(backend, dtype, seed):
    check_against_the_oracle(backend, dtype, seed)


@DTYPES
@pytest.mark.parametrize("visual_queries", ["causal", "unit", "gaze"])
@pytest.mark.parametrize("sees", [True, False])
def test_equals_the_oracle_for_visual_queries_of_every_kind(backend, dtype, visual_queries, sees):
    check_against_the_oracle(
        backend,
        dtype,
        30,
        image=RegionBudget((1, 2, 2), top_k=2),
        video=None,
        num_context_tokens=2,
        visual_queries=visual_queries,
        visual_sees_context=sees,
        context_visible=sees,
    )


@DTYPES
def test_equals_the_oracle_where_layers_and_prompts_are_dense(backend, dtype):
    case = draw_case(3, dense_layers=(1,))
    config = dataclasses.replace(case.config, backend=backend)
    layout = case.batch.layout()
    layout = dataclasses.replace(layout, routed=layout.index % 2 == 0)
    tensors = draw_tensors(case, dim=DIM, scaling=SCALING)
    where = real(layout, case.heads)
    outputs = []
    for layer in (0, 1):
        want, _ = oracle_attention(*tensors, layout, config, scaling=SCALING, layer=layer)
        out = run(*(x.to(dtype) for x in tensors), layout, config, layer=layer)
        assert close(out[where], want[where], dtype)
        outputs.append(out)
    assert not torch.allclose(*outputs), "the two layers differ, or this test says nothing"


@pytest.mark.parametrize("seed", range(12))
def test_keeping_every_region_is_dense_attention(backend, seed):
    """K ≥ R, forward and gradients: against the dense configuration, and against plain attention where |C|=0."""
    context_tokens = (0, 2)[seed % 2]
    case = draw_case(seed, num_context_tokens=context_tokens, video=None, visual_queries="causal", min_keep_ratio=0.0)
    layout = case.batch.layout()
    where = real(layout, case.heads)
    tensors = draw_tensors(case, dim=DIM, scaling=SCALING, margin=0.0)
    size = case.config.image.region_size
    results = []
    for budget in ({}, {"top_k": 999}, {"keep_ratio": 1.0}, {"kv_budget": 10**6}):
        config = dataclasses.replace(case.config, image=RegionBudget(size, **budget), backend=backend)
        inputs = tuple(x.clone().requires_grad_() for x in tensors)
        out = run(*inputs, layout, config)
        results.append((out[where], *gradients(out, inputs, where)))
    if not context_tokens:
        inputs = tuple(x.clone().requires_grad_() for x in tensors)
        q, k, v = inputs[0], *(x.repeat_interleave(case.heads // case.kv_heads, 1) for x in inputs[1:])
        same = layout.sample[:, None, :, None] == layout.sample[:, None, None, :]
        mask = same & torch.ones(layout.shape[1], layout.shape[1], dtype=torch.bool).tril()
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=SCALING)
        results.append((out[where], *gradients(out, inputs, where)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 2, 2), (2, 2, 2), (3, 2, 1)])
def test_visual_queries_that_keep_every_region_are_dense_too(backend, size):
    """Temporal regions as well: the earlier frames of a region that is not over yet are not lost."""
    config = GazeConfig(
        image=RegionBudget(size, top_k=99), num_context_tokens=1, visual_queries="gaze", backend=backend
    )
    layout = build([[[("text", (1,)), ("video", (3, 2, 4)), ("text", (2,))]]], config).layout()
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, layout.shape[1], DIM, generator=generator, dtype=torch.float64) for n in (4, 2, 2))
    out = run(q, k, v, layout, config)
    dense = dataclasses.replace(config, visual_queries="causal", image=RegionBudget(size))
    assert torch.allclose(out, run(q, k, v, layout, dense), atol=1e-12)
    one = config.override(top_k=1)
    want, _ = oracle_attention(q, k, v, layout, one, scaling=SCALING)
    assert torch.allclose(run(q, k, v, layout, one), want, atol=1e-11)


@pytest.mark.parametrize("seed", range(12))
def test_a_full_floor_is_dense_attention(backend, seed):
    """The first steps of the progressive schedule: min_keep_ratio=1."""
    case = draw_case(seed, visual_queries="causal")
    layout = case.batch.layout()
    q, k, v = draw_tensors(case, dim=DIM, scaling=SCALING, margin=0.0)
    at_start = dataclasses.replace(case.config, min_keep_ratio=1.0, backend=backend)
    dense = dataclasses.replace(
        case.config,
        image=RegionBudget(case.config.image.region_size),
        video=case.config.video and RegionBudget(case.config.video.region_size),
        backend=backend,
    )
    assert torch.equal(run(q, k, v, layout, at_start), run(q, k, v, layout, dense))


def shuffle_inside_regions(layout, generator):
    """int64 [B, S]: tokens, with those of each region shuffled among their places."""
    order = torch.arange(layout.shape[1]).repeat(layout.shape[0], 1)
    for b in range(layout.shape[0]):
        for g in range(layout.num_regions):
            places = (layout.region[b] == g).nonzero().flatten()
            order[b, places] = places[torch.randperm(len(places), generator=generator)]
    return order


def take(x, order):
    return x.gather(2, order[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


@DTYPES
@pytest.mark.parametrize("seed", range(12))
def test_order_inside_a_region_does_not_matter(backend, dtype, seed):
    """Other keys and values in the places of a region: text queries see the same set."""
    case, layout, tensors, *_ = reference(seed)
    q, k, v = (x.to(dtype) for x in tensors)
    config = dataclasses.replace(case.config, backend=backend)
    order = shuffle_inside_regions(layout, torch.Generator().manual_seed(seed))
    where = (layout.role == TEXT)[:, None].expand(out_shape := q.shape[:3])
    a = run(q, k, v, layout, config).view(*out_shape, -1)[where]
    b = run(q, take(k, order), take(v, order), layout, config)[where]
    assert torch.allclose(a, b, rtol=1e-6, atol=1e-6 if dtype == torch.float32 else 1e-12)


@DTYPES
@pytest.mark.parametrize("descriptor", ["mean", "max", "minmax", "oracle"])
@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
def test_order_of_the_regions_of_a_unit_does_not_matter(backend, dtype, descriptor, granularity):
    config = GazeConfig(
        image=RegionBudget((1, 2, 2), top_k=2),
        num_context_tokens=2,
        descriptor=descriptor,
        head_granularity=granularity,
        backend=backend,
    )
    row = [("text", (1,)), ("image", (1, 4, 4)), ("text", (2,)), ("image", (1, 4, 6)), ("text", (3,))]
    layout = build([[row]], config).layout()
    generator = torch.Generator().manual_seed(1)
    length = layout.shape[1]
    q, k, v = (torch.randn(1, n, length, DIM, generator=generator, dtype=dtype) for n in (4, 2, 2))
    order = torch.arange(length)[None].clone()
    for unit in (0, 1):
        regions = layout.region[layout.unit == unit].unique()[1:]
        shuffled = regions[torch.randperm(len(regions), generator=generator)]
        assert not torch.equal(regions, shuffled)
        for a, b in zip(regions, shuffled, strict=True):
            order[0, (layout.region[0] == a).nonzero().flatten()] = (layout.region[0] == b).nonzero().flatten()
    where = (layout.role == TEXT)[:, None].expand(-1, 4, -1)
    a, b = run(q, k, v, layout, config), run(q, take(k, order), take(v, order), layout, config)
    assert torch.allclose(a[where], b[where], rtol=1e-6, atol=1e-6 if dtype == torch.float32 else 1e-12)


@DTYPES
@pytest.mark.parametrize("seed", range(12))
def test_keys_may_be_stored_in_any_order(backend, dtype, seed):
    """Queries and keys permuted with their layout (as a cache stores them): every output moves along."""
    case, layout, tensors, *_ = reference(seed)
    q, k, v = (x.to(dtype) for x in tensors)
    config = dataclasses.replace(case.config, backend=backend)
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(layout.shape[1], generator=generator) for _ in range(layout.shape[0])])
    out = run(*(take(x, order) for x in (q, k, v)), layout.tokens(order), config)
    back = order.argsort(1)
    where = real(layout, case.heads)
    straight = run(q, k, v, layout, config)
    assert torch.allclose(take(out, back)[where], straight[where], rtol=1e-6, atol=2e-6)


def other_content(x, where, seed=99):
    """x with random content where bool [B, S] says so."""
    noise = 300 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(x.dtype)
    return torch.where(where[:, None, :, None], noise, x)


@DTYPES
@pytest.mark.parametrize("seed", range(24))
def test_nothing_leaks(backend, dtype, seed):
    """Whatever comes later, in another sample, in another row or in padding: outputs stay bit-identical."""
    case, layout, tensors, *_ = reference(seed)
    config = dataclasses.replace(case.config, backend=backend)
    q, k, v = (x.to(dtype) for x in tensors)
    out = run(q, k, v, layout, config)
    for b in range(layout.shape[0]):
        for i in range(layout.shape[1]):
            if layout.role[b, i] != TEXT or (i and layout.role[b, i - 1] == TEXT and i + 1 < layout.shape[1]):
                continue
            mine = torch.zeros(layout.shape, dtype=torch.bool)
            mine[b] = (layout.sample[b] == layout.sample[b, i]) & (layout.index[b] <= layout.index[b, i])
            changed = run(*(other_content(x, ~mine) for x in (q, k, v)), layout, config)
            assert torch.equal(changed[b, :, i], out[b, :, i]), (b, i)


@DTYPES
@pytest.mark.parametrize("seed", range(12))
def test_visual_and_context_queries_leak_nothing_either(backend, dtype, seed):
    case, layout, tensors, *_ = reference(seed)
    config = dataclasses.replace(case.config, backend=backend)
    q, k, v = (x.to(dtype) for x in tensors)
    out = run(q, k, v, layout, config)
    cut = layout.shape[1] // 2
    later = (layout.index >= cut) | (layout.role == PAD)
    changed = run(*(other_content(x, later) for x in (q, k, v)), layout, config)
    where = ~later[:, None].expand(-1, case.heads, -1)
    assert torch.equal(changed[where], out[where])


def test_a_context_query_sees_its_unit_alone(backend):
    config = GazeConfig(image=RegionBudget((1, 2, 2), top_k=1), num_context_tokens=2, backend=backend)
    row = [("text", (2,)), ("image", (1, 2, 4)), ("text", (1,)), ("image", (1, 2, 2)), ("text", (1,))]
    layout = build([[row]], config).layout()
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, layout.shape[1], DIM, generator=generator) for _ in range(3))
    out = run(q, k, v, layout, config)
    for unit in (0, 1):
        mine = (layout.unit == unit) & (layout.role != TEXT)
        changed = run(*(other_content(x, ~mine) for x in (q, k, v)), layout, config)
        queries = mine & (layout.role != VISUAL)
        assert torch.equal(changed[0, :, queries[0]], out[0, :, queries[0]])


@DTYPES
@pytest.mark.parametrize("left", [False, True])
def test_padding_changes_nothing(backend, dtype, left):
    """Each row alone, and all rows in one batch: 1e-5 in fp32."""
    config = GazeConfig(image=RegionBudget((1, 2, 2), top_k=2), num_context_tokens=2, backend=backend)
    rows = [
        [("text", (2,)), ("image", (1, 4, 4)), ("text", (3,))],
        [("text", (4,))],
        [("image", (1, 3, 4)), ("text", (1,)), ("image", (1, 2, 2)), ("text", (2,))],
    ]
    layout = build([[row] for row in rows], config, left=left, min_length=40).layout()
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, n, 40, DIM, generator=generator, dtype=dtype) for n in (4, 2, 2))
    together = run(q, k, v, layout, config)
    assert together.isfinite().all()
    for b, row in enumerate(rows):
        places = (layout.role[b] != PAD).nonzero().flatten()
        single = build([[row]], config).layout()
        alone = run(*(x[b : b + 1, :, places] for x in (q, k, v)), single, config)
        assert torch.allclose(alone[0], together[b][:, places], atol=1e-5 if dtype == torch.float32 else 1e-12)
        assert torch.equal(single.position_ids[0], layout.position_ids[b, places])


@DTYPES
def test_packing_changes_nothing(backend, dtype):
    """Samples of a pack as rows of their own."""
    config = GazeConfig(image=RegionBudget((1, 2, 2), top_k=2), num_context_tokens=1, backend=backend)
    samples = [
        [("text", (2,)), ("image", (1, 4, 4)), ("text", (3,))],
        [("image", (1, 4, 2)), ("text", (2,))],
        [("text", (4,))],
    ]
    pack = build([samples], config).layout()
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, pack.shape[1], DIM, generator=generator, dtype=dtype) for n in (4, 2, 2))
    together = run(q, k, v, pack, config)
    for n, sample in enumerate(samples):
        places = (pack.sample[0] == n).nonzero().flatten()
        single = build([[sample]], config).layout()
        alone = run(*(x[:, :, places] for x in (q, k, v)), single, config)
        assert torch.allclose(alone[0], together[0][:, places], atol=1e-5 if dtype == torch.float32 else 1e-12)
        assert torch.equal(single.position_ids[0], pack.position_ids[0, places])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", [1, 5, 14])
def test_no_nan_in_low_precision_and_with_large_logits(backend, dtype, seed):
    case, layout, tensors, *_ = reference(seed)
    config = dataclasses.replace(case.config, backend=backend)
    q, k, v = ((30 * x).to(dtype).requires_grad_() for x in tensors)
    out = run(q, k, v, layout, config)
    assert out.dtype == dtype and out.isfinite().all()
    for grad in gradients(out, (q, k, v), torch.ones_like(out, dtype=torch.bool)):
        assert grad.isfinite().all()


def test_saved_selections_are_used_again(backend):
    """Activation checkpointing: the second pass takes the regions of the first, whatever its scores say."""
    config = GazeConfig(image=RegionBudget((1, 2, 2), top_k=2), num_context_tokens=1, backend=backend)
    layout = build([[[("image", (1, 4, 6)), ("text", (4,))]]], config).layout()
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, layout.shape[1], DIM, generator=generator) for n in (4, 2, 2))
    saved: dict = {}
    first = run(q, k, v, layout, config, saved=saved)
    assert list(saved) == [0]
    chosen = saved[0].clone()
    assert torch.equal(first, run(q, k, v, layout, config, saved=saved))
    second = run(q, -k, v, layout, config, saved=saved)
    assert torch.equal(saved[0], chosen)
    assert not torch.equal(second, run(q, -k, v, layout, config)), "left to itself it would have chosen others"


def test_an_unknown_or_unfit_backend_is_refused(backend):
    case, layout, *_ = reference(0)
    ctx = context(layout, dataclasses.replace(case.config, backend=backend + "x"))
    with pytest.raises(ValueError, match=backend):
        prepare(ctx, torch.device("cpu"), torch.float32)
    for other in BACKENDS:
        if BACKENDS[other].refuses(case.config, torch.device("cpu"), torch.float32) is None:
            continue
        with pytest.raises(ValueError, match=other):
            prepare(
                context(layout, dataclasses.replace(case.config, backend=other)), torch.device("cpu"), torch.float32
            )
