"""Triton kernels against the oracle, in Triton's interpreter (fp32, on a CPU) and, marked `gpu`, on a device."""

import dataclasses
import importlib.util

import pytest
import torch

from cambrian_gaze.attention import BACKENDS, GazeRecorder, Heads, attend, prepare
from cambrian_gaze.attention.choice.trial import Timing, try_all
from cambrian_gaze.attention.triton import backend as triton_regions
from cambrian_gaze.attention.triton import plan as triton_plan
from cambrian_gaze.attention.triton.plan import LaunchPlan, QueryRows, queries_of_blocks
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.layout import CONTEXT, TEXT, VISUAL
from cambrian_gaze.gaze.oracle import oracle_attention
from cambrian_gaze.gaze.visibility import routing_queries, structure
from tests._layouts import build, draw_case, draw_tensors
from tests.attention._interpreter import INTERPRETED, compiled, interpreter, run_interpreted, scalars  # noqa: F401
from tests.attention._run import DIM, SCALING, context, gradients, real, reference, run
from tests.attention._toys import LAYOUT_CONFIG, few_tokens


@compiled
def test_in_the_interpreter():
    run_interpreted(__file__)


@pytest.fixture
def poisoned():
    """Every `torch.empty` is full of NaN, and an operation without a fixed order is an error."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def case_of(seed, **options):
    """`reference(seed)`, with visual queries that do not route."""
    if draw_case(seed).config.visual_queries == "gaze":
        options.setdefault("visual_queries", "causal")
    return reference(seed, **options)


def check_against_the_oracle(case, layout, tensors, want, want_grads):
    config = dataclasses.replace(case.config, backend="triton")
    inputs = tuple(x.float().requires_grad_() for x in tensors)
    out = run(*inputs, layout, config)
    where = real(layout, case.heads)
    assert out.isfinite().all(), "padding included"
    assert torch.allclose(out.double()[where], want[where], rtol=2e-5, atol=2e-5)
    for got, expected, name in zip(gradients(out, inputs, where), want_grads, "qkv", strict=True):
        assert torch.allclose(got.double(), expected, rtol=2e-5, atol=2e-5), f"d{name}"


# Seeds of `draw_case`: groups 1, 4, 7 and both granularities; regions of 4, 9, 12, 36, ragged and temporal; packs,
# padding on either side; |C| = 0, 1, 4; visual queries that see their own unit alone.
@interpreter
@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
def test_what_auto_tries_finds_no_fault(granularity):
    """The check that a GPU is given: the same choice as `masked`, outputs and gradients row by row."""
    ctx = few_tokens(LAYOUT_CONFIG.override(head_granularity=granularity), rows=2)
    both = {name: BACKENDS[name] for name in ("masked", "triton")}
    device, once = torch.device("cpu"), lambda call, device: 1.0
    outcomes = try_all(
        ctx, Heads(4, 2, 16), device, torch.float32, both, gradients=True, floor=0.9, timing=Timing(timer=once)
    )
    assert [o.reason for o in outcomes] == [None, None] and outcomes[1].error < 1e-4


@interpreter
@pytest.mark.parametrize("seed", [2, 3, 5, 8, 13, 14, 16, 17, 22])
def test_equals_the_oracle(poisoned, seed):
    check_against_the_oracle(*case_of(seed)[:5])


@interpreter
@pytest.mark.parametrize(("seed", "size"), [(4, 16), (14, 5)])
def test_large_regions_are_cut_and_many_queries_go_in_passes(poisoned, monkeypatch, seed, size):
    passes = []
    whole = LaunchPlan.queries
    monkeypatch.setattr(LaunchPlan, "queries", lambda *args: passes.append(args) or whole(*args))
    monkeypatch.setattr(triton_plan, "BLOCK_KEYS", size)
    monkeypatch.setattr(triton_regions, "PARTS_BYTES", 2**13)
    check_against_the_oracle(*case_of(seed)[:5])
    assert len(passes) > 1 and passes[0][0].cuts > 1


@interpreter
@pytest.mark.parametrize(("seed", "size"), [(4, 5), (14, 5)])
def test_blocks_may_be_smaller_for_a_call(poisoned, monkeypatch, seed, size):
    """As on a device for fp32: blocks of the plan are cut again, and the last part of one may be empty."""
    from cambrian_gaze.attention.triton import launch as triton_launch

    monkeypatch.setattr(triton_launch, "largest_block", lambda q: size)
    tables = []
    forward = triton_launch.forward
    monkeypatch.setattr(triton_launch, "forward", lambda *args: tables.append(args[3].table) or forward(*args))
    check_against_the_oracle(*case_of(seed)[:5])
    assert tables and all(table.shape[2] <= size for table in tables)
    assert seed == 4 or (tables[0] < 0).all(2).any(), "a part without a key"


def one_image(**options):
    """Text around two images; nothing padded or packed, so that the other queries' attention is plain causal."""
    config = GazeConfig(image=RegionBudget((1, 3, 3), top_k=2), num_context_tokens=2, backend="triton", **options)
    row = [("text", (2,)), ("image", (1, 6, 7)), ("text", (2,)), ("image", (1, 3, 6)), ("text", (3,))]
    layout = build([[row], [row]], config).layout()
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, n, layout.shape[1], DIM, generator=generator, dtype=torch.float64) for n in (8, 2, 2)]
    return config, layout, tensors


@interpreter
@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
@pytest.mark.parametrize("layer", [0, 1])
def test_plain_causal_rows_unrouted_text_and_dense_layers(poisoned, granularity, layer):
    config, layout, tensors = one_image(head_granularity=granularity, dense_layers=(1,))
    layout = dataclasses.replace(layout, routed=layout.index % 2 == 0)
    ctx = prepare(context(layout, config), torch.device("cpu"), torch.float32)
    assert ctx.prepared.own.structure is None, "or another path is tested"
    inputs = [x.float().requires_grad_() for x in tensors]
    out = attend(*inputs, ctx, layer=layer, scaling=SCALING)
    tensors = [x.requires_grad_() for x in tensors]
    want, _ = oracle_attention(*tensors, layout, config, scaling=SCALING, layer=layer)
    where = real(layout, 8)
    assert torch.allclose(out.double(), want, rtol=2e-5, atol=2e-5)
    for got, expected in zip(gradients(out, inputs, where), gradients(want, tensors, where), strict=True):
        assert torch.allclose(got.double(), expected, rtol=2e-5, atol=2e-5)


@interpreter
@pytest.mark.parametrize("seed", [2, 13])
def test_some_queries_over_keys_in_any_order(poisoned, seed):
    """As in chunked prefill: the last half of the tokens, against keys as a cache stores them."""
    case, layout, tensors, *_ = case_of(seed)
    config = dataclasses.replace(case.config, backend="triton")
    q, k, v = (x.float() for x in tensors)
    generator = torch.Generator().manual_seed(seed)
    batch, length = layout.shape
    keys = torch.stack([torch.randperm(length, generator=generator) for _ in range(batch)])
    queries = torch.stack([torch.randperm(length - length // 2, generator=generator) for _ in range(batch)])
    queries += length // 2
    ctx = context(layout.tokens(queries), config)
    ctx.key_layout = layout.tokens(keys)
    prepare(ctx, q.device, q.dtype)
    q_part, k, v = (x.gather(2, at[:, None, :, None].expand(-1, x.shape[1], -1, DIM)) for x, at in
                    ((q, queries), (k, keys), (v, keys)))  # fmt: skip
    out = attend(q_part, k, v, ctx, layer=0, scaling=SCALING)
    want = case_of(seed)[3].gather(2, queries[:, None, :, None].expand_as(out))
    where = real(ctx.layout, case.heads)
    assert torch.allclose(out.double()[where], want[where], rtol=2e-5, atol=2e-5)


@interpreter
def test_large_logits_stay_finite(poisoned):
    """Where every logit is far below 0, a slot without a key must not win: exp(0 - lse) overflows."""
    case, layout, tensors, *_ = case_of(14)
    q, k, v = (x.float() for x in tensors)
    results = []
    for backend in ("masked", "triton"):
        inputs = [x.clone().requires_grad_() for x in (30 * q.abs(), -30 * k.abs(), v)]
        config = dataclasses.replace(case.config, backend=backend)
        out = run(*inputs, layout, config)
        where = real(layout, case.heads)
        results.append((out[where], *gradients(out, inputs, where)))
    for want, got in zip(*results, strict=True):
        assert torch.allclose(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


@interpreter
def test_nothing_leaks(poisoned):
    """Whatever comes later, or in another sample: outputs stay bit-identical."""
    case, layout, tensors, *_ = case_of(3)
    config = dataclasses.replace(case.config, backend="triton")
    q, k, v = (x.float() for x in tensors)
    out = run(q, k, v, layout, config)
    assert layout.sample.max() > 0, "a pack"
    for i in [i for i in range(layout.shape[1]) if layout.role[1, i] == TEXT][::4]:
        mine = torch.zeros(layout.shape, dtype=torch.bool)
        mine[1] = (layout.sample[1] == layout.sample[1, i]) & (layout.index[1] <= i)
        noise = (torch.where(mine[:, None, :, None], x, 300 * torch.randn_like(x)) for x in (q, k, v))
        assert torch.equal(run(*noise, layout, config)[1, :, i], out[1, :, i]), i


@interpreter
def test_counts_and_selections_are_those_of_masked():
    config, layout, tensors = one_image()
    inputs = [x.float() for x in tensors]
    counted, outputs = [], []
    for backend in ("masked", "triton"):
        recorder, saved, named = GazeRecorder(), {}, dataclasses.replace(config, backend=backend)
        outputs.append(run(*inputs, layout, named, recorder=recorder, saved=saved))
        counted.append(recorder)
    assert torch.allclose(*outputs, rtol=2e-5, atol=2e-5)
    assert counted[0].stats() == counted[1].stats()
    for name in ("regions", "visual", "context", "text"):
        assert torch.equal(getattr(counted[0].layers[0], name), getattr(counted[1].layers[0], name))
    other = run(inputs[0], -inputs[1], inputs[2], layout, config, saved=saved)
    assert not torch.equal(other, run(inputs[0], -inputs[1], inputs[2], layout, config)), "saved selections were used"


@interpreter
def test_keys_before_the_rotary_embedding():
    config, layout, tensors = one_image(descriptor_keys="pre_rope")
    angle = torch.rand(2, layout.shape[1], DIM // 2).repeat(1, 1, 2)
    outputs = []
    for backend in ("masked", "triton"):
        ctx = context(layout, dataclasses.replace(config, backend=backend))
        ctx.rotary = (angle.cos(), angle.sin())
        prepare(ctx, torch.device("cpu"), torch.float32)
        outputs.append(attend(*(x.float() for x in tensors), ctx, layer=0, scaling=SCALING))
    assert torch.allclose(*outputs, rtol=2e-5, atol=2e-5)


@interpreter
def test_it_refuses_what_it_cannot_do():
    config, layout, tensors = one_image()
    for dtype in (torch.float64, torch.bfloat16):
        with pytest.raises(ValueError, match="triton.*float32 in the interpreter"):
            run(*(x.to(dtype) for x in tensors), layout, config)
    with pytest.raises(ValueError, match="triton.*visual_queries"):
        run(*(x.float() for x in tensors), layout, dataclasses.replace(config, visual_queries="gaze"))
    ctx = prepare(context(layout, config), torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="dropout"):
        attend(*(x.float() for x in tensors), ctx, layer=0, scaling=SCALING, dropout=0.1)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter accepts a CPU")
def test_it_refuses_a_cpu_or_a_missing_triton(monkeypatch):
    config, layout, tensors = one_image()
    with pytest.raises(ValueError, match="needs a CUDA device|not installed"):
        run(*(x.float() for x in tensors), layout, config)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install triton" in triton_regions.refuses(config, torch.device("cuda"), torch.bfloat16)


@pytest.mark.parametrize("seed", range(24))
def test_the_plan_says_what_visibility_says(seed):
    """The run of flat keys of every routing query, its inverse, and the keys of every region."""
    case = draw_case(seed, visual_queries="causal")
    layout = case.batch.layout()
    order = torch.stack([torch.randperm(layout.shape[1]) for _ in range(layout.shape[0])])
    keys = layout.tokens(order)
    rows = QueryRows.of(routing_queries(layout, case.config), layout.index)
    plan = LaunchPlan.of(layout, keys, rows, case.config)
    seen = structure(layout, keys, case.config)
    for b in range(layout.shape[0]):
        flat = plan.key_at[b]
        for t in range(rows.at.shape[1]):
            mine = flat[plan.first[b, t] : plan.last[b, t]].tolist()
            if not rows.real[b, t]:
                assert not mine
                continue
            visible = seen[b, rows.at[b, t]] & ((keys.role[b] == TEXT) | (keys.role[b] == CONTEXT))
            assert sorted(mine) == visible.nonzero().flatten().tolist()
            assert rows.place[b, rows.at[b, t]] == t
        for n in range(len(flat)):
            inside = (plan.first[b] <= n) & (n < plan.last[b])
            bounds = torch.zeros_like(inside)
            bounds[plan.row_first[b, n] : plan.row_last[b, n]] = True
            assert flat[n] < 0 or not (inside & ~bounds).any()
        cut = plan.table[b].view(layout.num_regions, -1)
        for region in range(layout.num_regions):
            held = (keys.role[b] == VISUAL) & (keys.region[b] == region)
            assert sorted(x for x in cut[region].tolist() if x >= 0) == held.nonzero().flatten().tolist()


@pytest.mark.parametrize("selecting", [2, 14])
def test_queries_of_blocks(selecting):
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(-1, 5, (2, selecting, 6, 3), generator=generator)
    offsets, entries = queries_of_blocks(blocks, 5, kv_heads=2)
    assert len(offsets) == 2 * 2 * 5 + 1
    want = [[] for _ in offsets[1:]]
    for place, block in enumerate(blocks.flatten().tolist()):
        b, head = place // (selecting * 18), place // 18 % selecting
        if block >= 0:
            want[(b * 2 + head // (selecting // 2)) * 5 + block].append(place)
    assert [entries[a:z].tolist() for a, z in zip(offsets[:-1], offsets[1:], strict=True)] == want


TOLERANCE = {torch.float32: 5e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
ON_A_DEVICE = [
    *[(torch.bfloat16, 128, 5), (torch.bfloat16, 128, 22), (torch.bfloat16, 64, 8), (torch.bfloat16, 64, 3)],
    *[(torch.float32, 128, 13), (torch.float32, 64, 14), (torch.float32, 8, 16), (torch.float16, 128, 20)],
]


@compiled
@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "dim", "seed"), ON_A_DEVICE, ids=lambda x: str(x).removeprefix("torch."))
def test_on_a_device(dtype, dim, seed):
    """Against `masked` in fp64 on the same rounded inputs and selection. What the kernels compute comes out the same
    twice, to the last bit (the rows of the other queries are torch's)."""
    case, layout, *_ = case_of(seed)
    layout = layout.to("cuda")
    rounded = [x.to("cuda", dtype) for x in draw_tensors(case, dim=dim, scaling=dim**-0.5)]
    config = dataclasses.replace(case.config, backend="triton")
    where = real(layout, case.heads)
    rows = QueryRows.of(routing_queries(layout, config), layout.index)

    def both(tensors, config, where, saved):
        inputs = [x.clone().requires_grad_() for x in tensors]
        out = run(*inputs, layout, config, saved=saved)
        return out.detach()[where], *torch.autograd.grad(out[where].square().sum(), inputs)

    saved = {}
    routing = rows.member[:, None].expand_as(where)
    for once, again in zip(*(both(rounded, config, routing, saved) for _ in range(2)), strict=True):
        assert torch.equal(once, again)
    reference_config = dataclasses.replace(config, backend="masked")
    wide = [x.double() for x in rounded]
    _, asking = context(layout, reference_config).of_routing_queries()
    asking = asking[:, None, :, None].expand(-1, saved[0].shape[1], -1, saved[0].shape[3])
    wants = both(wide, reference_config, where, {0: rows.put(saved[0], -1).gather(2, asking)})
    for got, want in zip(both(rounded, config, where, saved), wants, strict=True):
        assert got.dtype == dtype
        assert (got.double() - want).abs().max() <= TOLERANCE[dtype] * want.abs().max()
