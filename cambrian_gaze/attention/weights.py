"""Softmax weights of each row's last query: how much it attended to each visual entry, region and role.

No backend keeps them. They are computed beside it, from the same queries and keys and from what was really visible (the
recorded choice, a policy's mask), so that every backend can be asked and its output stays what it was. That costs one
query's products with the keys that it saw, and holds nothing of the size heads × keys beyond a layer.

Shapes: B rows, H query heads, G KV heads of n query heads each, S keys, N visual tokens of the widest row, R regions of
m slots, K chosen, D head size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cambrian_gaze.attention.context import GazeContext, LayerPages
from cambrian_gaze.attention.decode.reference import stand_in
from cambrian_gaze.attention.record import LayerWeights
from cambrian_gaze.gaze.layout import CONTEXT, EMPTY_SLOT, PAD, TEXT, VISUAL, TokenLayout
from cambrian_gaze.gaze.routing import as_mask
from cambrian_gaze.gaze.visibility import routable, structure

ROLES = (VISUAL, CONTEXT, TEXT)
"""In this order weights are summed by role."""


class _Shared(NamedTuple):
    """What the layers of one forward call share."""

    query: TokenLayout
    """Of each row's last query, [B, 1]."""
    keys: TokenLayout
    """[B, S]."""
    seen: Tensor
    """bool [B, S]: keys that it sees, or sees where their region is chosen."""
    choice: Tensor
    """bool [B, S]: keys that it sees only where their region is chosen."""
    order: Tensor
    """int64 [B, N]: where the row's visual tokens are among the keys, in the order of the sequence."""
    there: Tensor
    """bool [B, N]: which of these exist."""


@torch.no_grad()
def record_weights(ctx: GazeContext, layer: int, q: Tensor, k: Tensor | None, scaling: float) -> None:
    """Compute the weights of a layer that has just run, for `ctx.recorder.weights`; its choice has been recorded.

    Args:
        q: [B, H, Q, D]; k: [B, G, S, D], the keys where they are not read from the cache.
    """
    out, regions = ctx.recorder.weights, ctx.recorder.layers[layer].regions
    from_cache = ctx.reads_cache or ctx.policy is not None
    if out.shared is None:
        out.shared = _share(ctx, from_cache)
    last = q[:, :, -1].to(torch.promote_types(q.dtype, torch.float32)) * scaling
    if out.dense is not None:
        visual = (out.shared.seen & (out.shared.keys.role == VISUAL))[:, None]
        every = _softmax(_products(last, ctx.cache.layers[layer] if from_cache else k), visual)
        order, there = (x[:, None].expand(-1, q.shape[1], -1) for x in (out.shared.order, out.shared.there))
        out.dense[layer] = every.gather(2, order).masked_fill(~there, 0)
    routes = ctx.layout.num_regions > 0 and ctx.config.routes(layer)
    if ctx.is_step and routes and ctx.policy is None and not ctx.keeps_every_region:
        out.layers[layer] = _of_chosen_pages(last, ctx.cache.layers[layer], regions, out.shared)
        return
    allowed = out.allowed if ctx.policy is not None else _visible(out.shared, regions if routes else None)
    weights = _softmax(_products(last, ctx.cache.layers[layer] if from_cache else k), allowed)
    out.layers[layer] = _of_all_keys(weights, regions, out.shared)


def _share(ctx: GazeContext, from_cache: bool) -> _Shared:
    """Synchronises with the device."""
    query = ctx.layout.tokens(slice(ctx.layout.shape[1] - 1, None))
    keys = ctx.cache.key_layout() if from_cache else ctx.key_layout
    seen = structure(query, keys, ctx.config)[:, 0] & (query.role != PAD)
    visual = keys.role == VISUAL
    most = int(visual.sum(1).max()) if visual.numel() else 0
    order = torch.where(visual, keys.index, EMPTY_SLOT).argsort(dim=1)[:, :most]
    return _Shared(query, keys, seen, routable(query, keys, ctx.config)[:, 0], order, visual.gather(1, order))


def _visible(shared: _Shared, regions: Tensor | None) -> Tensor:
    """bool [B, H or G or 1, S]: the keys that the query attends to, given the regions int64 [B, H or G, K] that it
    chose; None: it sees all regions."""
    if regions is None:
        return shared.seen[:, None]
    chosen = as_mask(regions, shared.keys.num_regions)
    at_key = chosen.gather(-1, shared.keys.region.clamp(min=0)[:, None].expand(-1, chosen.shape[1], -1))
    return shared.seen[:, None] & (at_key | ~shared.choice[:, None])


def _products(q: Tensor, keys: Tensor | LayerPages) -> Tensor:
    """[B, H, S]: of q [B, H, D] and keys [B, G, S, D], or those of a cache's layer: page slots, then columns."""
    parts = [keys] if isinstance(keys, Tensor) else [keys.page_keys.flatten(2, 3), keys.text_context_keys]
    grouped = q.unflatten(1, (parts[0].shape[1], -1))
    return torch.cat([grouped @ part.to(q.dtype).transpose(-1, -2) for part in parts], dim=-1).flatten(1, 2)


def _softmax(logits: Tensor, allowed: Tensor) -> Tensor:
    """[B, H, S] under bool [B, H or G or 1, S]; 0 where nothing is allowed."""
    allowed = allowed.repeat_interleave(logits.shape[1] // allowed.shape[1], dim=1)
    return logits.masked_fill(~allowed, -torch.inf).softmax(-1).masked_fill(~allowed, 0)


def _of_all_keys(weights: Tensor, regions: Tensor, shared: _Shared) -> LayerWeights:
    """From weights [B, H, S] on all keys."""
    heads, keys = weights.shape[1], shared.keys
    by_region = weights.new_zeros(*weights.shape[:2], keys.num_regions + 1)
    place = torch.where(keys.role == VISUAL, keys.region, keys.num_regions)
    by_region.scatter_add_(-1, place[:, None].expand_as(weights), weights)
    regions = regions.repeat_interleave(heads // regions.shape[1], dim=1)
    inside = by_region.gather(-1, regions.clamp(min=0)).masked_fill(regions < 0, 0)
    by_role = torch.stack([(weights * (keys.role == role)[:, None]).sum(-1) for role in ROLES], dim=-1)
    return LayerWeights(_in_order(weights.mean(1), shared), inside, by_role)


def _of_chosen_pages(q: Tensor, pages: LayerPages, regions: Tensor, shared: _Shared) -> LayerWeights:
    """Of a decoding step, whose queries q [B, H, D], scaled, read only the pages of the regions that they chose."""
    columns = pages.text_context_keys
    (batch, heads, _), (_, selections, most), groups = q.shape, regions.shape, columns.shape[1]
    chosen, read = regions >= 0, stand_in(regions)
    keys = pages.gather_keys(read.view(batch, groups, -1))
    slots = keys.shape[3]
    keys = keys.reshape(batch * selections, most * slots, -1).to(q.dtype)
    on_pages = (q.view(batch * selections, heads // selections, -1) @ keys.transpose(-1, -2)).view(batch, heads, -1)
    paged = shared.seen.shape[1] - columns.shape[2]
    at = read[..., None] * slots + torch.arange(slots, device=q.device)
    allowed = shared.seen.gather(1, at.view(batch, -1)).view(at.shape) & chosen[..., None]
    allowed = torch.cat([allowed.flatten(2), shared.seen[:, None, paged:].expand(-1, selections, -1)], dim=-1)
    weights = _softmax(torch.cat([on_pages, _products(q, columns)], dim=-1), allowed)
    on_pages, on_columns = weights.split([most * slots, columns.shape[2]], dim=-1)
    inside = on_pages.unflatten(-1, (most, slots)).sum(-1)
    role = shared.keys.role[:, None, paged:]
    others = [(on_columns * (role == of)).sum(-1) for of in ROLES[1:]]
    by_head = on_pages.view(batch, selections, -1, most * slots).sum(2) / heads
    heat = weights.new_zeros(batch, paged).scatter_add_(1, at.view(batch, -1), by_head.view(batch, -1))
    return LayerWeights(_in_order(heat, shared), inside, torch.stack([inside.sum(-1), *others], dim=-1))


def _in_order(by_key: Tensor, shared: _Shared) -> Tensor:
    """[B, N] of the visual tokens from [B, S'], where they all lie among the first S' keys."""
    at = shared.order.masked_fill(~shared.there, 0)
    return by_key.gather(1, at).masked_fill(~shared.there, 0)
