"""Gaze over what a policy has left: regions are described by the keys that are still in memory, and chosen as ever.

Shapes: B rows, G KV heads, H query heads, Q queries, S keys, R regions, K chosen, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cambrian_gaze.attention.policy.policy import VisiblePolicy
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import TokenLayout
from cambrian_gaze.gaze.routing import Pool, as_mask, choose_from
from cambrian_gaze.gaze.visibility import routable


def check_gaze(policy: VisiblePolicy, config: GazeConfig) -> None:
    """Raises: ValueError for a budget of regions beside a policy that chooses by the question itself, for descriptors
    that are not made here, and where keys before RoPE are wanted and not kept."""
    if policy.wants_bare_keys and config.descriptor_keys != "pre_rope":
        raise ValueError(f"policy {policy.name!r} reads keys before RoPE: give descriptor_keys='pre_rope'")
    if config.is_dense:
        return
    if not policy.routes_on:
        raise ValueError(
            f"policy {policy.name!r} chooses what the answer sees, and so does the gaze's budget: give one of them "
            "(gaze={'keep_ratio': 1.0} leaves it to the policy)"
        )
    if config.descriptor != "mean" or config.descriptor_keys != "post_rope":
        raise ValueError(
            f"gaze over what policy {policy.name!r} leaves describes regions by the mean of their keys after RoPE, not "
            f"by descriptor={config.descriptor!r}, descriptor_keys={config.descriptor_keys!r}"
        )


def choose_of_held(
    q: Tensor, keys: Tensor, held: Tensor, layout: TokenLayout, config: GazeConfig, pools: tuple[Pool, ...]
) -> Tensor:
    """The regions that each query chooses, int64 [B, H or G, Q, K], -1 where fewer are kept.

    The product with a mean of keys is the mean of the products with them.

    Args:
        q: [B, H, Q, D]; keys: [B, G, S, D], of `layout`.
        held: bool [B, H, Q, S], the keys in memory when each query comes.
        pools: the regions that compete, for these queries.
    """
    shared, regions = q.shape[1] // keys.shape[1], layout.num_regions
    products = q.float() @ keys.float().repeat_interleave(shared, dim=1).transpose(-1, -2)
    member = torch.nn.functional.one_hot(layout.region + 1, regions + 1)[..., 1:].float()[:, None]
    counts = held.float() @ member
    scores = (products.masked_fill(~held, 0.0) @ member) / counts.clamp(min=1)
    scores = scores.masked_fill(counts == 0, -torch.inf)
    if config.head_granularity == "kv_group":
        scores = scores.unflatten(1, (-1, shared)).mean(2)
    return choose_from(scores, pools)


def inside(regions: Tensor, keys: TokenLayout, queries: TokenLayout, config: GazeConfig) -> Tensor:
    """bool [B, H or G, Q, S]: the keys that are in a region that the query chose, or need no choice."""
    chosen = as_mask(regions, queries.num_regions)
    at_key = keys.region[:, None, None].clamp(min=0).expand(*chosen.shape[:3], -1)
    return chosen.gather(-1, at_key) | ~routable(queries, keys, config)[:, None]
