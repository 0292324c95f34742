"""The varlen backend against the oracle, with plain torch for its kernels, and on a GPU with the flash kernels.

`test_backends.py` compares `varlen_reference` with the oracle on whatever it does not refuse; here every drawn case is
given causal visual queries, so that none is left out.
"""

import dataclasses

import pytest
import torch

from cambrian_gaze.attention import GazeRecorder, attend, prepare
from cambrian_gaze.attention.counted import at_queries
from cambrian_gaze.attention.varlen import blocks
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.oracle import oracle_attention
from tests._layouts import build, draw_case, draw_tensors
from tests.attention._run import DIM, SCALING, context, gradients, real, reference, refusal, run
from tests.models._streams import Stream, cuts_of_kind, drawn, random_rotary

CAUSAL = dict(visual_queries="causal")
CPU = torch.device("cpu")


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_oracle(seed):
    case, layout, tensors, want, want_grads, _ = reference(seed, **CAUSAL)
    inputs = tuple(x.clone().requires_grad_() for x in tensors)
    out = run(*inputs, layout, dataclasses.replace(case.config, backend="varlen_reference"))
    where = real(layout, case.heads)
    assert torch.allclose(out[where], want[where], rtol=1e-11, atol=1e-11)
    for got, expected in zip(gradients(out, inputs, where), want_grads, strict=True):
        assert torch.allclose(got, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("visible", [True, False])
@pytest.mark.parametrize("layer", [0, 1])
def test_equals_the_oracle_where_layers_and_prompts_are_dense(layer, visible, sees):
    """Every second text query does not route; layer 1 does not route at all."""
    options = dict(CAUSAL, context_visible=visible, visual_sees_context=sees, num_context_tokens=2, dense_layers=(1,))
    case = draw_case(3, **options)
    config = dataclasses.replace(case.config, backend="varlen_reference")
    layout = case.batch.layout()
    layout = dataclasses.replace(layout, routed=layout.index % 2 == 0)
    inputs = tuple(x.requires_grad_() for x in draw_tensors(case, dim=DIM, scaling=SCALING))
    where = real(layout, case.heads)
    want, _ = oracle_attention(*inputs, layout, config, scaling=SCALING, layer=layer)
    out = run(*inputs, layout, config, layer=layer)
    assert torch.allclose(out[where], want[where], atol=1e-11)
    for got, expected in zip(gradients(out, inputs, where), gradients(want, inputs, where), strict=True):
        assert torch.allclose(got, expected, atol=1e-11)


@pytest.mark.parametrize("kind", ["one by one", "prefill, then steps", "mixture"])
@pytest.mark.parametrize("seed", range(0, 24, 2))
def test_a_cache_may_hand_over_its_keys_in_page_order(seed, kind):
    """Chunks of any length against a cache equal everything at once by the masked backend."""
    case, layout, layers = drawn(seed, **CAUSAL)
    layers = [tuple(x.double() for x in qkv) for qkv in layers]
    got = Stream(dataclasses.replace(case.config, backend="varlen_reference")).feed_pieces(
        layers, layout, cuts_of_kind(kind, layout, seed)
    )
    where = real(layout, case.heads)
    for qkv, out in zip(layers, got, strict=True):
        assert torch.allclose(out[where], run(*qkv, layout, case.config)[where], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("descriptor", ["mean", "minmax", "oracle"])
@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
def test_descriptors_of_keys_before_the_rotary_embedding(descriptor, granularity):
    """The routing queries are set apart, and are unrotated by their own positions."""
    case = draw_case(4, **CAUSAL, descriptor_keys="pre_rope", descriptor=descriptor, head_granularity=granularity)
    layout = case.batch.layout()
    tensors = draw_tensors(case, dim=DIM, scaling=SCALING)
    outputs, choices = [], []
    for name in ("masked", "varlen_reference"):
        ctx = context(layout, dataclasses.replace(case.config, backend=name), GazeRecorder())
        ctx.rotary = random_rotary(layout, 4)
        outputs.append(attend(*tensors, prepare(ctx, CPU, torch.float64), layer=0, scaling=SCALING))
        choices.append(ctx.recorder.layers[0].regions)
    where = real(layout, case.heads)
    assert torch.allclose(outputs[0][where], outputs[1][where], atol=1e-11)
    assert torch.equal(*choices)


def test_one_host_synchronisation_per_layer(monkeypatch):
    case, layout, tensors, *_ = reference(3, **CAUSAL)
    config = dataclasses.replace(case.config, backend="varlen_reference")
    ctx = prepare(context(layout, config, saved={}), CPU, torch.float64)
    attend(*tensors, ctx, layer=0, scaling=SCALING)
    assert 0 in ctx.saved, "it routes, and the second call does not choose again"
    calls = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: calls.append("tolist") or tolist(x))

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, kinds, args=(), kwargs=None):
            indices = args[1] if func is torch.ops.aten.index.Tensor else ()
            if func in (torch.ops.aten.nonzero.default, torch.ops.aten._local_scalar_dense.default) or any(
                index is not None and index.dtype == torch.bool for index in indices
            ):
                calls.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        attend(*tensors, ctx, layer=0, scaling=SCALING)
    assert calls == ["tolist"]


@pytest.mark.parametrize("name", ["flash_varlen", "varlen_reference"])
def test_visual_queries_of_other_kinds_are_refused_by_name(name):
    for kind in ("unit", "gaze"):
        assert f"'{kind}'" in refusal(name, "cpu", torch.float32, visual_queries=kind)


def test_head_sizes_and_dropout():
    with pytest.raises(ValueError, match="multiple of 8"):
        blocks.check_flash_head_size(36)
    with pytest.raises(ValueError, match="256"):
        blocks.check_flash_head_size(264)
    blocks.check_flash_head_size(128)
    case, layout, tensors, *_ = reference(0, **CAUSAL)
    ctx = prepare(context(layout, dataclasses.replace(case.config, backend="varlen_reference")), CPU, torch.float64)
    with pytest.raises(ValueError, match="dropout"):
        attend(*tensors, ctx, layer=0, scaling=SCALING, dropout=0.1)


def error(got, want):
    return ((got.double().cpu() - want.double().cpu()).norm() / want.double().norm().cpu()).item()


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(24))
def test_equals_the_oracle_on_a_gpu(seed):
    """bf16 against float64 on the same rounded inputs, drawn so that no selection hangs on a rounding."""
    case = draw_case(seed, **CAUSAL)
    layout = case.batch.layout()
    rounded = draw_tensors(case, dim=64, scaling=SCALING, dtype=torch.bfloat16)
    wide = tuple(x.double().requires_grad_() for x in rounded)
    where = real(layout, case.heads)
    want = run(*wide, layout, dataclasses.replace(case.config, backend="masked"))
    want_grads = gradients(want, wide, where)
    inputs = tuple(x.cuda().requires_grad_() for x in rounded)
    out = run(*inputs, layout.to(torch.device("cuda")), dataclasses.replace(case.config, backend="flash_varlen"))
    assert out.dtype == torch.bfloat16 and error(out[where.cuda()], want[where]) < 1e-2
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).cuda()
    got_grads = torch.autograd.grad((out.double() * weight)[where.cuda()].sum(), inputs)
    for got, expected in zip(got_grads, want_grads, strict=True):
        assert got.isfinite().all() and error(got, expected) < 2e-2


@pytest.mark.gpu
@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
@pytest.mark.parametrize(("heads", "groups"), [(32, 8), (28, 4)])
def test_model_sizes_on_a_gpu(granularity, heads, groups):
    """Regions of 36, head size 128, two packed rows; against `masked` in fp32 under the same selection."""
    config = GazeConfig(image=RegionBudget((1, 6, 6), top_k=4), head_granularity=granularity)
    row = [("text", (20,)), ("image", (1, 24, 24)), ("text", (60,)), ("image", (1, 24, 24)), ("text", (40,))]
    layout = build([[row, [("image", (1, 12, 12)), ("text", (300,))]], [row[2:]]], config).layout()
    layout = layout.to(torch.device("cuda"))
    generator = torch.Generator("cuda").manual_seed(0)
    rounded = tuple(
        torch.randn(2, n, layout.shape[1], 128, generator=generator, device="cuda").bfloat16()
        for n in (heads, groups, groups)
    )
    where = (layout.role != 0)[:, None].expand(-1, heads, -1)
    weight = torch.randn(2, heads, layout.shape[1], 128, generator=generator, device="cuda")
    results, chosen = [], None
    for name, dtype in (("masked", torch.float32), ("flash_varlen", torch.bfloat16)):
        inputs = tuple(x.to(dtype).requires_grad_() for x in rounded)
        ctx = prepare(
            context(layout, dataclasses.replace(config, backend=name), GazeRecorder(), {}), weight.device, dtype
        )
        if chosen is not None:
            places = ctx.prepared.own.routing.places[:, None, :, None].expand(-1, chosen.shape[1], -1, chosen.shape[3])
            ctx.saved[0] = chosen.gather(2, places)
        out = attend(*inputs, ctx, layer=0, scaling=128**-0.5)
        if chosen is None:
            chosen = at_queries(ctx.saved[0], ctx.prepared.own.choosing.tokens, layout.shape[1])
        grads = torch.autograd.grad((out.float() * weight)[where].sum(), inputs)
        results.append((out[where], *grads, ctx.recorder.stats()))
    for got, want in zip(results[1][:4], results[0][:4], strict=True):
        assert error(got, want) < 2e-2
    assert results[1][4] == results[0][4], "the same entries are counted"
