"""The varlen backend: its segments, what it refuses, and its calls of flash-attn and of torch's kernels.

`test_backends.py` compares `varlen_reference` with the oracle on whatever it does not refuse; here every drawn case is
given causal visual queries, so that none is left out.
"""

import dataclasses
import importlib.machinery
import logging
import sys
import types

import pytest
import torch

from cambrian_gaze.attention import BACKENDS, GazeRecorder, attend, blocks, flash_varlen, prepare
from cambrian_gaze.attention.blocks import PlainBlocks
from cambrian_gaze.attention.merge import Segments
from cambrian_gaze.attention.segments import RegionKeys, causal_pieces, region_piece
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.oracle import oracle_attention
from cambrian_gaze.gaze.visibility import regions_offered, routable, structure
from tests._layouts import build, draw_case, draw_tensors
from tests.attention._run import DIM, SCALING, context, gradients, real, reference, run
from tests.models.test_cache_invariants import Stream, cuts_of_kind, drawn, random_rotary

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


def seen_through(pieces, q_tokens, k_tokens, heads, groups):
    """How often each query head sees each key through the pieces: int64 [T, H, S]."""
    count = torch.zeros(q_tokens, heads, k_tokens, dtype=torch.int64)
    for piece in pieces:
        first, end = piece.segments.seen(len(piece.q_rows))
        assert piece.segments.cu_q.diff().min() > 0 and piece.segments.cu_k.diff().min() > 0, "no empty segment"
        assert piece.segments.max_q >= piece.segments.cu_q.diff().max()
        assert piece.segments.max_k >= piece.segments.cu_k.diff().max()
        assert len(piece.k_rows.unique()) == len(piece.k_rows), "gradients of keys need no atomics"
        filler = len(piece.targets) * piece.fold
        for row, slot, start, stop in zip(piece.q_rows, piece.slot, first, end, strict=True):
            if slot == filler:
                continue
            keys = piece.k_rows[start:stop]
            if piece.by_head:
                token, head = row // heads, row % heads
                assert (keys % groups == head // (heads // groups)).all()
                count[token, head, keys // groups] += 1
            else:
                count[row, :, keys] += 1
    return count


@pytest.mark.parametrize("seed", range(12))
def test_segments_hold_what_visibility_says(seed):
    """Each pair of a query and a key that it may see occurs in exactly one piece, and no other pair does."""
    case = draw_case(seed, **CAUSAL)
    layout, config, groups, heads = case.batch.layout(), case.config, case.kv_heads, case.heads
    batch, length = layout.shape
    offered = regions_offered(layout, config)
    generator = torch.Generator().manual_seed(seed)
    chosen = offered[:, None] & (torch.rand(batch, heads, *offered.shape[1:], generator=generator) < 0.4)
    number = torch.arange(layout.num_regions)
    table = number.where(chosen, -1).transpose(1, 2).flatten(0, 1)
    rows = offered.any(-1).flatten().nonzero().flatten()
    pieces = causal_pieces(layout, layout, config, routes=True)
    more = region_piece(table[rows], rows, rows // length, RegionKeys.of(layout), groups)
    pieces += [] if more is None else [more]
    count = seen_through(pieces, batch * length, batch * length, heads, groups)
    at_key = chosen.gather(-1, layout.region.clamp(min=0)[:, None, None].expand(-1, heads, length, -1))
    allowed = structure(layout, layout, config)[:, None] & (at_key | ~routable(layout, layout, config)[:, None])
    allowed &= (layout.role != 0)[:, None, :, None]
    for b in range(batch):
        own = slice(b * length, (b + 1) * length)
        assert torch.equal(count[own, :, own], allowed[b].transpose(0, 1).long())
        count[own, :, own] = 0
    assert not count.any(), "nothing from another row"


def test_the_work_is_what_is_needed():
    """A whole image costs visual queries no text after it, and routed text queries no unselected region."""
    config = GazeConfig(image=RegionBudget((1, 2, 2), top_k=1), num_context_tokens=2)
    layout = build([[[("text", (3,)), ("image", (1, 4, 4)), ("text", (50,))]]], config).layout()
    whole, text, context_tokens = causal_pieces(layout, layout, config, routes=True)
    assert (len(whole.q_rows), len(whole.k_rows)) == (16, 19)
    assert (len(text.q_rows), len(text.k_rows)) == (3 + 2 + 50, 3 + 2 + 50)
    assert (len(context_tokens.q_rows), len(context_tokens.k_rows)) == (2, 18)
    chosen = torch.zeros(50, 4, 1, dtype=torch.int64)
    chosen[:, 2:] = 3
    rows = 21 + torch.arange(50)
    piece = region_piece(chosen, rows, torch.zeros_like(rows), RegionKeys.of(layout), groups=2)
    assert piece.segments.cu_q.tolist() == [0, 100, 200], "two query heads share each segment; keys are not repeated"
    assert piece.segments.cu_k.tolist() == [0, 4, 8]
    assert region_piece(torch.full_like(chosen, -1), rows, 0 * rows, RegionKeys.of(layout), groups=2) is None


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


# What it refuses


def refusal(name="flash_varlen", device="cuda", dtype=torch.bfloat16, **options):
    return BACKENDS[name].refuses(GazeConfig(**options), torch.device(device), dtype)


@pytest.mark.parametrize("name", ["flash_varlen", "varlen_reference"])
def test_visual_queries_of_other_kinds_are_refused_by_name(name):
    for kind in ("unit", "gaze"):
        assert f"'{kind}'" in refusal(name, "cpu", torch.float32, visual_queries=kind)


def test_what_flash_attention_lacks_is_refused(monkeypatch):
    assert "cpu" in refusal(device="cpu")
    assert "float32" in refusal(dtype=torch.float32)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old one")
    assert "an old one" in refusal()
    with pytest.raises(ValueError, match="flash_varlen.*cpu"):
        run_config = GazeConfig(backend="flash_varlen")
        layout = build([[[("text", (2,))]]], run_config).layout()
        prepare(context(layout, run_config), CPU, torch.bfloat16)


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


# flash-attn, by its signature


@pytest.fixture
def fresh_choice():
    blocks.flash_blocks.cache_clear()
    yield
    blocks.flash_blocks.cache_clear()


def check_contract(q, k, cu_q, cu_k, max_q, max_k):
    assert cu_q.dtype == cu_k.dtype == torch.int32 and cu_q.is_contiguous() and cu_k.is_contiguous()
    assert type(max_q) is int and type(max_k) is int and max_q > 1
    assert cu_q[-1] == len(q) and cu_k[-1] == len(k) and q.shape[1] % k.shape[1] == 0
    assert cu_q.diff().min() > 0 and cu_k.diff().min() > 0


def flash_attn_stand_in(monkeypatch, **package):
    """A package with the signatures of flash-attn 2.8 that computes in plain torch."""
    calls = []

    def flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        softcap=0.0,
        alibi_slopes=None,
        deterministic=False,
        return_attn_probs=False,
        block_table=None,
    ):
        check_contract(q, k, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        assert dropout_p == 0.0 and return_attn_probs and not torch.is_grad_enabled()
        calls.append("forward")
        segments = Segments(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal)
        out, lse = PlainBlocks().forward(q, k, v, segments, softmax_scale)
        return out, lse.t().contiguous(), None

    def _flash_attn_varlen_backward(
        dout: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        softmax_lse: torch.Tensor,
        dq: torch.Tensor | None,
        dk: torch.Tensor | None,
        dv: torch.Tensor | None,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float,
        softmax_scale: float,
        causal: bool,
        window_size_left: int,
        window_size_right: int,
        softcap: float,
        alibi_slopes: torch.Tensor | None,
        deterministic: bool,
        rng_state: torch.Tensor | None = None,
        zero_tensors: bool = False,
    ) -> torch.Tensor:
        check_contract(q, k, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        assert (dropout_p, softcap, alibi_slopes, window_size_left, window_size_right) == (0.0, 0.0, None, -1, -1)
        assert softmax_lse.shape == (q.shape[1], len(q)) and softmax_lse.is_contiguous()
        assert dq.shape == q.shape and dk.shape == k.shape and dv.shape == v.shape and deterministic is False
        calls.append("backward")
        segments = Segments(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal)
        grads = PlainBlocks().backward(dout, q, k, v, out, softmax_lse.t(), segments, softmax_scale)
        for into, grad in zip((dq, dk, dv), grads, strict=True):
            into.copy_(grad)
        return torch.empty(0)

    module, interface = types.ModuleType("flash_attn"), types.ModuleType("flash_attn.flash_attn_interface")
    module.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None, origin="here")
    module.__version__ = "2.8.3"
    module.flash_attn_varlen_func = flash_attn_varlen_func
    interface._flash_attn_varlen_backward = _flash_attn_varlen_backward
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    monkeypatch.setitem(sys.modules, "flash_attn.flash_attn_interface", interface)
    return module, calls


@pytest.mark.parametrize("seed", [0, 3, 7])
def test_flash_attn_is_called_by_its_signature(seed, monkeypatch, fresh_choice, caplog):
    """The whole backend over the stand-in, against the oracle. The kernels themselves are not run."""
    _, calls = flash_attn_stand_in(monkeypatch)
    case, layout, tensors, want, want_grads, _ = reference(seed, **CAUSAL)
    inputs = tuple(x.clone().requires_grad_() for x in tensors)
    ctx = context(layout, case.config)
    flash_varlen.prepare(ctx)
    with caplog.at_level(logging.INFO):
        out = flash_varlen.attend(*inputs, ctx, 0, SCALING, 0.0)
    assert "flash_attn 2.8.3" in caplog.text
    where = real(layout, case.heads)
    assert torch.allclose(out[where], want[where], atol=1e-11)
    for got, expected in zip(gradients(out, inputs, where), want_grads, strict=True):
        assert torch.allclose(got, expected, rtol=1e-10, atol=1e-11)
    assert calls.count("forward") == calls.count("backward") >= 3


def test_torch_kernels_serve_where_flash_attn_is_not_installed(monkeypatch, fresh_choice, caplog):
    monkeypatch.setattr(blocks.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO):
        assert isinstance(blocks.flash_blocks(), blocks.TorchVarlenBlocks)
    assert "torch.nn.attention.varlen" in caplog.text
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    assert "without FlashAttention" in refusal()
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    assert refusal() is None


def test_a_broken_flash_attn_is_reported_and_not_passed_over(monkeypatch, fresh_choice):
    module, _ = flash_attn_stand_in(monkeypatch)
    del module.flash_attn_varlen_func
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert "repair or remove" in refusal()


# On a GPU


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
            places = ctx.prepared["routing"].places[:, None, :, None].expand(-1, chosen.shape[1], -1, chosen.shape[3])
            ctx.saved[0] = chosen.gather(2, places)
        out = attend(*inputs, ctx, layer=0, scaling=128**-0.5)
        chosen = ctx.saved[0]
        grads = torch.autograd.grad((out.float() * weight)[where].sum(), inputs)
        results.append((out[where], *grads, ctx.recorder.stats()))
    for got, want in zip(results[1][:4], results[0][:4], strict=True):
        assert error(got, want) < 2e-2
    assert results[1][4] == results[0][4], "the same entries are counted"
