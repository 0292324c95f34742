"""Undoing the rotary embedding, for descriptors of keys before RoPE."""

from __future__ import annotations

import torch
from torch import Tensor


def unrotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Inverse of x·cos + rotate_half(x)·sin.

    Args:
        x: [B, H, S, D], rotated; cos, sin: [B, S, D], halves repeated as in transformers.
    """
    cos, sin = cos[:, None], sin[:, None]
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos - turned * sin) / (cos * cos + sin * sin)
