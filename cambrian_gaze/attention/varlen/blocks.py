"""Block ops: attention within varlen segments, by plain torch, by the flash-attn package, or by torch's own kernels.

All hold to `merge.BlockOp`: their backward takes the output and LSE of attention over more keys than the block's own.

The flash-attn package has not been run by this project's tests, which hold the call against its signature; the plain op
and torch's kernels are run.
"""

from __future__ import annotations

import importlib.util
import logging
from functools import lru_cache

import torch
from torch import Tensor

from cambrian_gaze.attention.varlen.merge import BlockOp, MergedGradient, Segments
from cambrian_gaze.extras import require

logger = logging.getLogger(__name__)

NO_DROPOUT = 0.0
MAX_SEGMENTS = 65_535


class PlainBlocks:
    """Plain torch on any device and dtype: each query row gathers the keys of its segment. Exact and slow; what a row
    gets does not depend, to the bit, on which other rows share its segment."""

    name = "plain torch"

    def forward(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scaling: float) -> tuple[Tensor, Tensor]:
        logits, at = self._logits(q, k, segments, scaling)
        lse = logits.logsumexp(-1)
        weight = (logits - lse.masked_fill(lse.isneginf(), 0.0)[..., None]).exp()
        out = weight @ v.to(weight.dtype)[at].transpose(1, 2)
        return out.reshape(q.shape).to(q.dtype), lse.view(q.shape[:2])

    def backward(
        self, merged: MergedGradient, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scaling: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits, at = self._logits(q, k, segments, scaling)
        wide, grouped = logits.dtype, (len(q), k.shape[1], -1, q.shape[2])
        q, dout, out = (x.to(wide).view(grouped) for x in (q, merged.dout, merged.out))
        weight = (logits - merged.lse.view(logits.shape[:3])[..., None]).exp()
        delta = (dout * out).sum(-1, keepdim=True)
        d_weight = dout @ v.to(wide)[at].permute(0, 2, 3, 1)
        d_logits = weight * (d_weight - delta) * scaling
        dq = d_logits @ k.to(wide)[at].transpose(1, 2)
        dk, dv = (torch.zeros_like(x, dtype=wide) for x in (k, v))
        for into, left, right in ((dk, d_logits, q), (dv, weight, dout)):
            terms = (left.transpose(-1, -2) @ right).transpose(1, 2)  # [Tq, max_k, G, D]
            into.index_add_(0, at.flatten(), terms.flatten(0, 1))
        return dq.flatten(1, 2).to(k.dtype), dk.to(k.dtype), dv.to(v.dtype)

    @staticmethod
    def _logits(q: Tensor, k: Tensor, segments: Segments, scaling: float) -> tuple[Tensor, Tensor]:
        """Scaled logits [Tq, G, H/G, max_k], -inf where there is no key; and int64 [Tq, max_k], the key rows."""
        wide = torch.promote_types(q.dtype, torch.float32)
        first, end = segments.seen(len(q))
        at = first[:, None] + torch.arange(segments.max_k, device=q.device)
        beyond = at >= end[:, None]
        at = at.clamp(max=len(k) - 1)
        keys = k.to(wide)[at].permute(0, 2, 3, 1)
        logits = q.to(wide).view(len(q), k.shape[1], -1, q.shape[2]) @ keys * scaling
        return logits.masked_fill(beyond[:, None, None], -torch.inf), at


class FlashAttnBlocks:
    """The flash-attn package (2.7 or later): `flash_attn_varlen_func`, and the backward that it calls itself. KV heads
    are not repeated. Source: github.com/Dao-AILab/flash-attention, flash_attn/flash_attn_interface.py."""

    def __init__(self) -> None:
        package = require("flash_attn", "flash")
        self.name = f"flash_attn {package.__version__}"
        self._forward = package.flash_attn_varlen_func
        self._backward = require("flash_attn.flash_attn_interface", "flash")._flash_attn_varlen_backward

    def forward(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scaling: float) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            out, lse, _ = self._forward(
                q, k, v, *_lengths(segments), NO_DROPOUT, scaling, segments.causal, return_attn_probs=True
            )
        return out, _rows_first(lse)

    def backward(
        self, merged: MergedGradient, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scaling: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        self._backward(
            merged.dout,
            q,
            k,
            v,
            merged.out,
            merged.lse.t().contiguous(),
            dq,
            dk,
            dv,
            *_lengths(segments),
            NO_DROPOUT,
            scaling,
            segments.causal,
            window_size_left=-1,
            window_size_right=-1,
            softcap=0.0,
            alibi_slopes=None,
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )
        return dq, dk, dv


class TorchVarlenBlocks:
    """The kernels behind `torch.nn.attention.varlen.varlen_attn` (torch 2.11 or later), called below that function,
    whose backward takes no other output and LSE than its own. KV heads are not repeated."""

    name = "torch.nn.attention.varlen"

    def forward(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scaling: float) -> tuple[Tensor, Tensor]:
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q, k, v, *_lengths(segments), NO_DROPOUT, segments.causal, return_debug_mask=False, scale=scaling
        )
        return out, _rows_first(lse)

    def backward(
        self, merged: MergedGradient, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scaling: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ops.aten._flash_attention_backward(
            merged.dout,
            q,
            k,
            v,
            merged.out,
            merged.lse.t().contiguous(),
            *_lengths(segments),
            NO_DROPOUT,
            segments.causal,
            torch.zeros(2, dtype=torch.uint64, device=q.device),  # the state of a dropout that is not there
            torch.empty(0, device=q.device),
            scale=scaling,
        )


def _lengths(segments: Segments) -> tuple[Tensor, Tensor, int, int]:
    """Where segments begin, and the longest, of queries and keys, in the order in which every flash kernel takes them.

    The longest is never 1: there FlashAttention 2 turns to a decoding path of its own, whose LSE has another layout.

    Raises: ValueError for more segments than a grid of CUDA has rows.
    """
    count = len(segments.cu_q) - 1
    if count > MAX_SEGMENTS:
        raise ValueError(
            f"flash_varlen has {count} segments (row, KV head, region) in one call, and the flash kernels take "
            f"{MAX_SEGMENTS}: use backend 'flex' or 'triton', fewer rows in a batch, or larger regions"
        )
    return segments.cu_q, segments.cu_k, max(2, segments.max_q), segments.max_k


def _rows_first(lse: Tensor) -> Tensor:
    """[H, Tq] → [Tq, H]; FlashAttention marks a row without keys by +inf, `BlockOp` by -inf."""
    return lse.t().masked_fill(lse.t().isposinf(), -torch.inf)


@lru_cache(maxsize=1)
def flash_blocks() -> BlockOp:
    """flash-attn where it is installed, else torch's kernels; logs which. A broken installation raises ImportError."""
    spec = importlib.util.find_spec("flash_attn")
    # Without an origin it is the bare namespace that FlashAttention 4 alone leaves, which has none of these functions.
    op = FlashAttnBlocks() if spec is not None and spec.origin is not None else TorchVarlenBlocks()
    logger.info("flash_varlen runs on the kernels of %s", op.name)
    return op


def flash_refuses(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why no flash kernel runs here, or None."""
    if device.type != "cuda":
        return f"FlashAttention needs a CUDA device, and this is {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"FlashAttention needs fp16 or bf16, and this is {dtype}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"FlashAttention needs compute capability 8.0, and {torch.cuda.get_device_name(device)} has less"
    try:
        op = flash_blocks()
    except (ImportError, AttributeError) as error:
        return f"flash_attn is installed but cannot be used ({error}); repair or remove it"
    if isinstance(op, TorchVarlenBlocks) and not torch.backends.cuda.is_flash_attention_available():
        return "flash_attn is not installed, and this torch is built without FlashAttention"
    return None


def check_flash_head_size(dim: int) -> None:
    """Raises: ValueError for a head size that no flash kernel has."""
    if dim % 8 or dim > 256:
        raise ValueError(f"flash_varlen needs a head size that is a multiple of 8 and at most 256, got {dim}")
