"""Who may see whom, defined once. The mask, the decode gather and every later backend are derived from these.

A query sees a key when `structure` holds and, where `routable` holds too, the query selected the key's region.
"""

from __future__ import annotations

from torch import Tensor

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import CONTEXT, PAD, TEXT, VISUAL, TokenLayout


def structure(q: TokenLayout, k: TokenLayout, config: GazeConfig) -> Tensor:
    """What routing cannot change: same sample, causal order, and the scope of context tokens.

    Padding queries see themselves alone, so that no row of a softmax is empty.

    Returns: bool [B, Q, S].
    """
    q_role, k_role = q.role[:, :, None], k.role[:, None, :]
    same_unit = q.unit[:, :, None] == k.unit[:, None, :]
    seen = (k.index[:, None, :] <= q.index[:, :, None]) & (q.sample[:, :, None] == k.sample[:, None, :])
    seen &= k_role != PAD
    seen &= (q_role != CONTEXT) | same_unit
    if not config.context_visible:
        seen &= (q_role != TEXT) | (k_role != CONTEXT)
    if not config.visual_sees_context:
        seen &= (q_role != VISUAL) | (k_role != CONTEXT) | same_unit
    if config.visual_queries == "unit":
        seen &= (q_role != VISUAL) | (k_role != VISUAL) | same_unit
    itself = q.index[:, :, None] == k.index[:, None, :]
    return seen | ((q_role == PAD) & (k_role == PAD) & itself)


def routing_queries(q: TokenLayout, config: GazeConfig) -> Tensor:
    """bool [B, Q]: the queries that select regions."""
    routing = (q.role == TEXT) & q.routed
    if config.visual_queries == "gaze":
        routing = routing | (q.role == VISUAL)
    return routing


def routable(q: TokenLayout, k: TokenLayout, config: GazeConfig) -> Tensor:
    """bool [B, Q, S]: pairs that need the key's region to be selected: visual keys outside the query's own unit."""
    outside = q.unit[:, :, None] != k.unit[:, None, :]
    if q.num_regions:
        end = q.region_end.gather(1, k.region.clamp(min=0))
        outside &= end[:, None, :] <= q.index[:, :, None]
    return routing_queries(q, config)[:, :, None] & (k.role == VISUAL)[:, None, :] & outside


def regions_offered(q: TokenLayout, config: GazeConfig) -> Tensor:
    """bool [B, Q, R]: the regions whose units lie wholly before the query, in its own sample."""
    before = q.region_end[:, None, :] <= q.index[:, :, None]
    mine = q.region_sample[:, None, :] == q.sample[:, :, None]
    return before & mine & (q.region_size > 0)[:, None, :] & routing_queries(q, config)[:, :, None]
