"""Launching the kernels of `kernels.py`: sizes, grids and buffers. Imports triton."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
from torch import Tensor

from cambrian_gaze.attention.triton import kernels
from cambrian_gaze.attention.triton.plan import BLOCK_KEYS, LaunchPlan, OutputGradient, Selection


def forward(
    q: Tensor, k: Tensor, v: Tensor, plan: LaunchPlan, selection: Selection, scaling: float
) -> tuple[Tensor, Tensor]:
    """Output [B, H, T, D] and its log-sum-exp, fp32 [B, H, T].

    Args:
        q: [B, H, T, D], contiguous; k, v: [B, G, S, D].
    """
    blocks, offsets, entries = selection
    batch, heads, queries, dim = q.shape
    groups, (_, num_blocks, slots) = k.shape[1], plan.table.shape
    selecting, kept = blocks.shape[1], blocks.shape[3]
    share, strides = heads // selecting, (*k.stride()[:3], *v.stride()[:3])
    shape, keys_at_once = tiles(dim, _is_wide(q)), text_context_tile(_is_wide(q))
    part_out = torch.empty(batch, heads, queries, kept, dim, dtype=torch.float32, device=q.device)
    part_lse = torch.empty(batch, heads, queries, kept, dtype=torch.float32, device=q.device)
    out, lse = torch.empty_like(q), torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device)
    rows = queries * (heads // groups)
    with on_device(q.device):
        split = min(8, triton.cdiv(rows, 4 * shape["M"]))
        kernels.blocks_forward[batch * groups * num_blocks, split](
            q, k, v, plan.table, offsets, entries, part_out, part_lse, scaling, *strides, groups, num_blocks, queries,
            selecting, kept, share, slots, **shape, N=block_tile(slots),
        )  # fmt: skip
        kernels.rows_forward[triton.cdiv(rows, shape["M"]), batch * groups](
            q, k, v, plan.first, plan.last, plan.key_at, blocks, part_out, part_lse, out, lse, scaling, *strides,
            groups, queries, plan.key_at.shape[1], selecting, kept, share, P=heads // groups, **shape, N=keys_at_once,
        )  # fmt: skip
    return out, lse


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gradient: OutputGradient,
    plan: LaunchPlan,
    selection: Selection,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq [B, H, T, D], dk and dv [B, G, S, D]. Arguments as in `forward`."""
    (dout, lse, delta), (blocks, offsets, entries) = gradient, selection
    batch, heads, queries, dim = q.shape
    groups, length, (_, num_blocks, slots) = k.shape[1], k.shape[2], plan.table.shape
    selecting, kept, text_context = blocks.shape[1], blocks.shape[3], plan.key_at.shape[1]
    share, strides = heads // selecting, (*k.stride()[:3], *v.stride()[:3])
    shape, keys_at_once = tiles(dim, _is_wide(q), backward=True), text_context_tile(_is_wide(q))
    shared = heads // groups
    part_dq = torch.empty(batch, heads, queries, kept, dim, dtype=torch.float32, device=q.device)
    dq = torch.empty_like(q)
    dk, dv = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (k, v))  # keys that nobody sees have none
    with on_device(q.device):
        kernels.blocks_backward[batch * groups * num_blocks,](
            q, k, v, dout, lse, delta, plan.table, offsets, entries, part_dq, dk, dv, scaling, *strides, groups,
            num_blocks, length, queries, selecting, kept, share, slots, **shape, N=block_tile(slots),
        )  # fmt: skip
        kernels.rows_backward[triton.cdiv(queries * shared, shape["M"]), batch * groups](
            q, k, v, dout, lse, delta, plan.first, plan.last, plan.key_at, blocks, part_dq, dq, scaling, *strides,
            groups, queries, text_context, selecting, kept, share, P=shared, **shape, N=keys_at_once,
        )  # fmt: skip
        kernels.text_context_backward[triton.cdiv(text_context, keys_at_once), batch * groups](
            q, k, v, dout, lse, delta, plan.first, plan.last, plan.key_at, plan.row_first, plan.row_last, dk, dv,
            scaling, *strides, groups, length, queries, text_context, P=shared, **shape, N=keys_at_once,
        )  # fmt: skip
    return dq, dk, dv


def tiles(dim: int, wide: bool, backward: bool = False) -> dict[str, int]:
    """Head size, its power of two, rows per tile, warps and stages of a kernel's loop.

    Not tuned, no timing stands behind it: what ptxas fits into the registers and shared memory of sm_90 up to D = 128,
    for bf16 and fp16 without spilling; sm_80 takes it too, and spills a little in backward at D = 64. `wide`: fp32,
    whose products keep both factors in shared memory. What does not fit Triton refuses, with both numbers.
    """
    padded = max(16, triton.next_power_of_2(dim))
    rows = 64 if padded * (1 + backward) <= 128 else 32
    if wide:
        rows = 32 if padded <= 64 else 16
    return {
        "D": dim,
        "DP": padded,
        "M": rows,
        "num_warps": 4 if padded * (1 + backward) <= 64 and not wide else 8,
        "num_stages": 1 if wide else 3,
    }


def largest_block(q: Tensor) -> int:
    """Keys that a block may have. fp32 takes fewer than a region of 6 × 6 has, since backward would need more shared
    memory than sm_80 has."""
    return 32 if _is_wide(q) else BLOCK_KEYS


def text_context_tile(wide: bool) -> int:
    """Text and context keys that a program holds at once."""
    return 32 if wide else 64


def block_tile(slots: int) -> int:
    """Keys of a block, as a power of two that a matrix product takes."""
    return max(16, triton.next_power_of_2(slots))


def _is_wide(q: Tensor) -> bool:
    """Whether products are of fp32 on a device. The interpreter takes the tiles of bf16, since fewer programs are
    faster there."""
    return q.dtype == torch.float32 and q.is_cuda


def on_device(device: torch.device):
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
