"""Decoding of the `triton` backend: on a GPU without gradients its kernels score, choose and attend, in fixed shapes.
What they do not take goes the ways of every other backend.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.decode.step import DecodingStep, Found, LayerStep, needs_gradients


@dataclass(frozen=True)
class TritonStep(DecodingStep):
    """A decoding step in Triton."""

    limits: tuple[Tensor, Tensor] | None = None
    """`triton_launch.limits` of the pools."""

    @classmethod
    def of(cls, ctx: GazeContext) -> TritonStep:
        """From a step's layouts, without synchronisation on a GPU."""
        base, (batch, num_regions) = DecodingStep.of(ctx), ctx.layout.region_size.shape
        limits = kernels().limits(ctx.pools, batch, num_regions, base.seen.pages.device)
        return cls(base.seen, base.masks, base.chooses, base.complete, limits=limits)

    def elsewhere(self, step: LayerStep) -> Found:
        """In Triton without gradients, with all pages on the device; else as its base."""
        if needs_gradients(step.queries, step.pages) or not kernels().takes(step.queries, step.pages):
            return super().elsewhere(step)
        return self.in_triton(step)

    def in_triton(self, step: LayerStep) -> Found:
        """What entered the softmax is counted, and regions are ranked, where somebody asks."""
        ctx, pages, launch = step.ctx, step.pages, kernels()
        queries, num_regions = step.queries.contiguous(), ctx.layout.num_regions
        regions = visual = None
        plain = ctx.recorder is None and ctx.ranks_products and launch.chooses(num_regions, step.selections)
        if step.routes and plain:
            most = sum(pool.most for pool in ctx.pools)
            wanted = launch.choose(queries, pages.descriptors, self.limits, most, step.selections)
        else:
            regions = step.choose()
            wanted = launch.pages_of(regions, queries.shape[:3], num_regions, queries.device)
        if ctx.recorder is not None:
            visual = launch.slots_seen(regions, self.seen.pages, queries.shape[1], num_regions)
        return launch.attend(queries, pages, wanted, self.seen, step.scaling), visual, regions


def kernels():
    """`triton_launch.py`, imported where it is used: triton is optional, and reads TRITON_INTERPRET when it is
    imported."""
    from cambrian_gaze.attention.decode import triton_launch

    return triton_launch
