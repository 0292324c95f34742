"""`triton`: text queries' attention over the regions that they selected, region by region. The work falls with K.

The queries fall into two kinds, which share nothing:

- Routing text queries, in Triton (`kernels.py`). For each region the list of the queries that chose it is built
  in plain torch; one program per (region, KV head) reads the region's keys once for all of them, and what it finds is
  merged, by log-sum-exp, into the query's softmax over text and context. Backward knows owners instead of atomics: dk
  and dv of a key belong to one program, dq of a query to one program, and each sums in a fixed order.
- All others: torch's attention, causal where that says it all, else under the mask that visibility gives.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.counted import CountedRows
from cambrian_gaze.attention.triton.plan import LaunchPlan, OutputGradient, QueryRows, Selection
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import CONTEXT, PAD, TokenLayout
from cambrian_gaze.gaze.visibility import routing_queries, structure

PARTS_BYTES = 2**28
"""Memory that the parts of the outputs may take; more queries than fit go in several passes."""


def refuses(config: GazeConfig, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot run this configuration on this device and dtype, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (CUDA builds of torch bring it; elsewhere: pip install triton)"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return f"it needs a CUDA device, not {device.type} (TRITON_INTERPRET=1 interprets it on a CPU, for tests)"
    known = [torch.float32] if interpreted else [torch.float32, torch.bfloat16, torch.float16]
    if dtype not in known:
        return f"it computes {', '.join(map(str, known))}{' in the interpreter' if interpreted else ''}, not {dtype}"
    if config.visual_queries == "gaze":
        return "visual_queries='gaze': its routing queries are text alone"
    return None


@dataclass(frozen=True)
class ContextQueries:
    """The context queries, where all the others are plain causal attention."""

    rows: QueryRows
    seen: Tensor
    """bool [B, 1, C, S]: what each of them sees."""


@dataclass(frozen=True)
class RoutingQueries:
    """The text queries that route."""

    rows: QueryRows
    plan: LaunchPlan
    chooser: GazeContext
    """Their context; what fills a row up is offered nothing."""


@dataclass(frozen=True)
class TritonAttention:
    """The lists of queries and keys, and who sees whom among them: the same in every layer."""

    structure: Tensor | None
    """bool [B, 1, Q, S], who sees whom whatever is chosen; None: the queries that do not route are causal."""

    context: ContextQueries | None
    routing: RoutingQueries | None
    counted: CountedRows | None
    """None where nobody asks."""

    @classmethod
    def of(cls, ctx: GazeContext) -> TritonAttention:
        """From the layouts. Synchronises with the device."""
        layout, keys, config = ctx.layout, ctx.key_layout, ctx.config
        pairs = context = routing = None
        if not _is_causal(layout, keys, config):
            pairs = structure(layout, keys, config)[:, None]
        elif config.num_context_tokens:
            rows = QueryRows.of(layout.role == CONTEXT, layout.index)
            context = ContextQueries(rows, structure(layout.tokens(rows.at), keys, config)[:, None])
        if not config.is_dense and layout.num_regions:
            rows = QueryRows.of(routing_queries(layout, config), layout.index)
            if rows.at.shape[1]:
                mine = layout.tokens(rows.at)
                mine = dataclasses.replace(mine, role=mine.role.masked_fill(~rows.real, PAD))
                plan, chooser = LaunchPlan.of(layout, keys, rows, config), dataclasses.replace(ctx, layout=mine)
                routing = RoutingQueries(rows, plan, chooser)
        return cls(pairs, context, routing, CountedRows.of(ctx) if ctx.recorder is not None else None)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, ctx: GazeContext, layer: int, scaling: float, dropout: float
    ) -> Tensor:
        """Attention of q [B, H, Q, D] over k, v [B, G, S, D]; returns [B, H, Q, D].

        Raises: ValueError for dropout.
        """
        if dropout:
            raise ValueError(f"attention backend 'triton' has no attention dropout, but {dropout} was asked for")
        out, regions, tokens = self._other_queries(q, k, v, scaling), None, None
        if self.routing is not None and ctx.config.routes(layer):
            rows = self.routing.rows
            mine = rows.take(q)
            regions = self._choose(q, mine, k, ctx, layer, scaling)
            out = rows.put(routed_attention(mine, k, v, self.routing.plan, regions, scaling), out)
        if self.counted is not None:
            # A routing query's visual keys are those of its regions.
            if regions is not None:
                regions = rows.put(regions, -1)
                tokens = torch.arange(rows.member.shape[1], device=rows.at.device).expand_as(rows.member)
            self.counted.record(ctx, layer, q.shape[1], regions, tokens)
        return out

    def _choose(self, q: Tensor, mine: Tensor, k: Tensor, ctx: GazeContext, layer: int, scaling: float) -> Tensor:
        """Regions of the routing queries, int64 [B, H or G, T, K]; `mine` are their rows of q."""
        routing, key_region = self.routing, ctx.key_layout.region
        if ctx.config.descriptor_keys == "pre_rope":  # undoes the rotation of queries and keys: needs them all
            regions = routing.rows.take(ctx.choose(layer, q, k, key_region, scaling))
            return regions.masked_fill(~routing.rows.real[:, None, :, None], -1)
        return routing.chooser.choose(layer, mine, k, key_region, scaling)

    def _other_queries(self, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
        """Attention [B, H, Q, D] of the queries that do not route; the rows of those that do mean nothing."""
        shared = q.shape[1] // k.shape[1]
        if self.structure is not None:
            k, v = (x.repeat_interleave(shared, dim=1) if shared > 1 else x for x in (k, v))
            return scaled_dot_product_attention(q, k, v, attn_mask=self.structure, scale=scaling)
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=shared > 1)
        if self.context is None or not self.context.rows.at.shape[1]:
            return out
        rows, seen = self.context.rows, self.context.seen.repeat(1, 1, shared, 1)
        mine = rows.take(q)
        grouped = mine.reshape(mine.shape[0], k.shape[1], -1, mine.shape[3])  # the heads of a KV head as more queries
        context = scaled_dot_product_attention(grouped, k, v, attn_mask=seen, scale=scaling)
        return rows.put(context.view(mine.shape), out)


def routed_attention(q: Tensor, k: Tensor, v: Tensor, plan: LaunchPlan, regions: Tensor, scaling: float) -> Tensor:
    """Attention of the routing queries q [B, H, T, D] over text, context and their regions.

    Args:
        k, v: [B, G, S, D]; regions: int64 [B, H or G, T, K], -1 for none.

    Returns: [B, H, T, D], with gradients.
    """
    plan = plan.blocks_of(_kernels().largest_block(q))
    part = torch.arange(plan.cuts, device=q.device)
    blocks = torch.where(regions[..., None] < 0, -1, regions[..., None] * plan.cuts + part).flatten(3)
    batch, heads, queries, dim = q.shape
    step = max(1, PARTS_BYTES // (4 * batch * heads * blocks.shape[3] * dim))
    if step >= queries:
        return _RoutedAttention.apply(q, k, v, plan, blocks, scaling)
    cuts = [(start, min(start + step, queries)) for start in range(0, queries, step)]
    apply = _RoutedAttention.apply
    return torch.cat([apply(q[:, :, a:z], k, v, plan.queries(a, z), blocks[:, :, a:z], scaling) for a, z in cuts], 2)


class _RoutedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, plan: LaunchPlan, blocks: Tensor, scaling: float) -> Tensor:
        q, blocks = q.contiguous(), blocks.contiguous()
        k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
        selection = Selection.of(blocks, plan.table.shape[1], k.shape[1])
        out, lse = _kernels().forward(q, k, v, plan, selection, scaling)
        ctx.save_for_backward(q, k, v, out, lse, *selection)
        ctx.plan, ctx.scaling = plan, scaling
        return out

    @staticmethod
    def backward(ctx, dout: Tensor):
        q, k, v, out, lse, *selection = ctx.saved_tensors
        dout = dout.contiguous()
        delta = (out.float() * dout.float()).sum(-1)
        gradient = OutputGradient(dout, lse, delta)
        grads = _kernels().backward(q, k, v, gradient, ctx.plan, Selection(*selection), ctx.scaling)
        return *grads, None, None, None


def _kernels():
    """`launch.py`, imported where it is used: triton is optional, and reads TRITON_INTERPRET when it is imported."""
    from cambrian_gaze.attention.triton import launch as triton_launch

    return triton_launch


def _is_causal(layout: TokenLayout, keys: TokenLayout, config: GazeConfig) -> bool:
    """Whether visual queries, and text queries that do not route, see just what stands before them. Synchronises."""
    if config.visual_queries != "causal" or not (config.visual_sees_context and config.context_visible):
        return False
    if keys.shape != layout.shape:
        return False
    in_order = (keys.index == layout.index).all() & (layout.index.diff(dim=1) > 0).all()
    alone = layout.sample.cummin(1).values == layout.sample.cummax(1).values
    return bool(in_order & (alone | (layout.sample < 0)).all())
