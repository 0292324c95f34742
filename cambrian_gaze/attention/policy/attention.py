"""Attention under a `VisiblePolicy`.

A reference that is exact and simple: every call attends densely under a mask, and what was evicted is hidden for ever
instead of freed. It measures what a policy's decisions cost in quality, not what they save in time or memory.
Shapes: B rows, G KV heads, H query heads, Q queries, Q' of a block, S keys, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.masks import Softmax, under_mask
from cambrian_gaze.attention.policy.call import Call
from cambrian_gaze.attention.policy.layer import PolicyLayer, Stored
from cambrian_gaze.attention.policy.routing import choose_of_held, inside
from cambrian_gaze.attention.record import Counts
from cambrian_gaze.gaze.layout import CONTEXT, PAD, TEXT, VISUAL


@dataclass(frozen=True)
class PolicyAttention:
    """One forward call under the policy of `ctx.policy`."""

    call: Call

    @classmethod
    def of(cls, ctx: GazeContext) -> PolicyAttention:
        """Let the policy's state take in the call's layout. Raises: ValueError, see `PolicyState.read`."""
        return cls(ctx.policy.read(ctx.layout, ctx.cache.key_layout(), ctx.config, ctx.cache.length, ctx.reads_cache))

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        ctx: GazeContext,
        layer: int,
        scaling: float,
        dropout: float = 0.0,
    ) -> Tensor:
        """Attention of q [B, H, Q, D] over what each query may see of the cache, where k and v are already; returns
        [B, H, Q, D]. There is no dropout."""
        call, pages = self.call, ctx.cache.layers[layer]
        keys = torch.cat([pages.page_keys.flatten(2, 3), pages.text_context_keys], dim=2)
        values = torch.cat([pages.page_values.flatten(2, 3), pages.text_context_values], dim=2)
        bare = None
        if ctx.policy.policy.wants_bare_keys and "bare" in pages.stores:
            bare = torch.cat([pages.stores["bare"].pages.flatten(2, 3), pages.text_context_keys], dim=2)
        decided = PolicyLayer(ctx.policy, call, layer, q, Stored(keys, values, bare), ctx.rotary, scaling)
        routes = ctx.config.routes(layer) and ctx.layout.num_regions > 0
        out, counts, chosen = [], [], []
        for block, allowed in decided.blocks():
            mine = q[:, :, block]
            if routes:
                pools = _of(ctx, block).pools
                regions = choose_of_held(mine, keys, allowed & call.visual, call.keys, ctx.config, pools)
                inside_them = inside(regions, call.keys, call.queries.tokens(block), ctx.config)
                allowed = allowed & inside_them.repeat_interleave(q.shape[1] // inside_them.shape[1], dim=1)
                chosen.append(regions)
            if ctx.recorder is not None:
                counts.append(_count(call, block, allowed))
            out.append(under_mask(mine, keys, values, allowed, Softmax(scaling)))
        if ctx.recorder is not None:
            counted = Counts.of_blocks(counts)
            regions = torch.cat(chosen, dim=2) if chosen else torch.full_like(counted.visual[:, :1, :, None], -1)
            ctx.recorder.record(layer, regions, counted)
            if ctx.recorder.weights is not None:
                last = allowed[:, :, -1] & (call.queries.role[:, -1:] != PAD)[:, :, None]
                ctx.recorder.weights.allowed = last.expand(len(q), q.shape[1], -1)
        return out[0] if len(out) == 1 else torch.cat(out, dim=2)


def _of(ctx: GazeContext, block: slice) -> GazeContext:
    """The context of a block of queries, for choosing."""
    if block.stop - block.start == ctx.layout.shape[1]:
        return ctx
    tokens = torch.arange(block.start, block.stop, device=ctx.layout.role.device)
    return ctx.of_queries(tokens.expand(ctx.layout.shape[0], -1))


def _count(call: Call, block: slice, allowed: Tensor) -> Counts:
    """What a block's queries attend to."""
    role, mine = call.keys.role, call.queries.role[:, block]
    allowed = allowed & (mine != PAD)[:, None, :, None]
    visual, context, text = ((allowed & (role == r)[:, None, None]).sum(-1) for r in (VISUAL, CONTEXT, TEXT))
    before = call.before(block)
    return Counts(visual, context, text, before, (mine == TEXT) & (before > 0))
