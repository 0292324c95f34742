"""The mask over all pairs, which no backend holds: beside the oracle, what by-rows attention is compared with."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import TokenLayout
from cambrian_gaze.gaze.routing import as_mask
from cambrian_gaze.gaze.visibility import routable, structure
from tests.attention._run import SCALING


def square_mask(layout: TokenLayout, config: GazeConfig, regions: Tensor | None) -> Tensor:
    """bool [B, H or G or 1, Q, Q]. regions: int64 [B, H or G, Q, K], what every query chose; None: no choice."""
    allowed = structure(layout, layout, config)[:, None]
    if regions is None:
        return allowed
    at_key = layout.region.clamp(min=0)[:, None, None].expand(*regions.shape[:3], -1)
    chosen = as_mask(regions, layout.num_regions).gather(-1, at_key)
    return allowed & (chosen | ~routable(layout, layout, config)[:, None])


def square_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout, config: GazeConfig, regions: Tensor | None
) -> Tensor:
    """Attention of q [B, H, Q, D] over k, v [B, G, Q, D] under that mask."""
    allowed = square_mask(layout, config, regions)
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    allowed = allowed.repeat_interleave(q.shape[1] // allowed.shape[1], dim=1)
    return scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=SCALING)
