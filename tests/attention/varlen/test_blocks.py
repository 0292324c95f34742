"""The flash kernels: where they are refused, and flash-attn by its signature. No kernel is run here."""

import importlib.machinery
import logging
import sys
import types

import pytest
import torch

from cambrian_gaze.attention import prepare
from cambrian_gaze.attention.varlen import blocks
from cambrian_gaze.attention.varlen.backend import FlashVarlen
from cambrian_gaze.attention.varlen.blocks import PlainBlocks
from cambrian_gaze.attention.varlen.merge import MergedGradient, Segments
from cambrian_gaze.gaze.config import GazeConfig
from tests._layouts import build
from tests.attention._run import SCALING, context, gradients, real, reference, refusal

CAUSAL = dict(visual_queries="causal")
CPU = torch.device("cpu")


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
        grads = PlainBlocks().backward(MergedGradient(dout, out, softmax_lse.t()), q, k, v, segments, softmax_scale)
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
    prepared = FlashVarlen.of(ctx)
    with caplog.at_level(logging.INFO):
        out = prepared.attend(*inputs, ctx, 0, SCALING, 0.0)
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
