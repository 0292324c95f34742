"""Decoding: one text query per row over its selected pages, text and context. The work falls with K.

Keys lie region-major in the cache, so that a region is one contiguous block per KV head. Beside the descriptors only
the selected blocks of the visual cache are read. Every backend decodes like this unless it declares another way
(`Backend.decode`); three ways, one contract:

- `reference.py`: plain functions of fixed shapes; with gradients, on every device, under `torch.compile` and in a CUDA
  graph.
- `native.py`: compiled code on a CPU without gradients, which chooses as well; each page is read once per KV head.
- `cpu.py`: plain torch on a CPU without gradients, through buffers that are kept. For what `native.py` does not take,
  and where it was not compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cambrian_gaze.attention.context import GazeContext, LayerPages, Seen
from cambrian_gaze.attention.counted import every_region
from cambrian_gaze.attention.decode import cpu as decode_cpu
from cambrian_gaze.attention.decode import native as decode_native
from cambrian_gaze.attention.decode import reference as decode_torch
from cambrian_gaze.attention.record import Counts
from cambrian_gaze.gaze.descriptors import descriptor_named
from cambrian_gaze.gaze.layout import CONTEXT, TEXT
from cambrian_gaze.gaze.visibility import structure


class LayerStep(NamedTuple):
    """One layer's part of a decoding step."""

    queries: Tensor
    """[B, G, n, D], the n query heads of each KV head side by side."""
    ctx: GazeContext
    layer: int
    routes: bool
    """Whether regions are chosen in this layer; else all are attended to."""
    scaling: float

    @property
    def pages(self) -> LayerPages:
        """What the cache holds of this layer."""
        return self.ctx.cache.layers[self.layer]

    @property
    def selections(self) -> int:
        """Selections per KV head."""
        return 1 if self.ctx.config.head_granularity == "kv_group" else self.queries.shape[2]

    def choose(self) -> Tensor | None:
        """The regions int64 [B, H or G, 1, K] that the queries look at; None: every one."""
        if not self.routes:
            return None
        needs_keys = descriptor_named(self.ctx.config.descriptor).needs_keys
        every_key = self.pages.page_keys.flatten(2, 3) if needs_keys else None
        q = self.queries.flatten(1, 2)[:, :, None]
        return self.ctx.choose(self.layer, q, every_key, self.ctx.cache.page_layout.region, self.scaling)


Found = tuple[Tensor, Tensor | int | None, Tensor | None]
"""Output [B, G, n, D]; the slots that entered the softmax, int64 [B, G or 1, n or 1] or one number for all, None where
nobody asks; the regions int64 [B, H or G, 1, K] that were looked at, None for every one."""


@dataclass(frozen=True)
class DecodingStep:
    """What the layers of one decoding step share, and attention by it."""

    seen: Seen
    """Which slots of pages and which text and context columns the query may see; both are given."""

    masks: Seen
    """The same for code on a CPU, where what sees everything needs no mask."""

    chooses: bool
    """Whether there is something to choose, in layers that route."""

    complete: bool
    """Whether every query keeps as many regions as `choose` returns places."""

    compiled: bool = True
    """Whether compiled code may serve, where it can; a bench of plain torch says otherwise."""

    @classmethod
    def of(cls, ctx: GazeContext) -> DecodingStep:
        """From a step's layouts. Off the CPU without synchronisation."""
        layouts = ctx.cache.page_layout, ctx.cache.text_context_layout
        seen = Seen(*(structure(ctx.layout, layout, ctx.config)[:, 0] for layout in layouts))
        # Looking at the data is free on a CPU; elsewhere it would wait for the device.
        on_cpu = seen.pages.device.type == "cpu"
        return cls(
            seen=seen,
            masks=Seen(*(None if on_cpu and bool(mask.all()) else mask for mask in seen)),
            # Without a recorder nobody asks in which order all regions rank.
            chooses=ctx.layout.num_regions > 0 and (ctx.recorder is not None or not ctx.keeps_every_region),
            complete=ctx.chooses_in_full,
        )

    def attend(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        ctx: GazeContext,
        layer: int,
        scaling: float,
        dropout: float = 0.0,
    ) -> Tensor:
        """Attention of q [B, H, 1, D] over the cache; returns [B, H, 1, D]. k, v are in the cache already."""
        pages = ctx.cache.layers[layer]
        batch, heads, _, dim = q.shape
        groups = pages.text_context_keys.shape[1]
        queries = q.reshape(batch, groups, heads // groups, dim)
        step = LayerStep(queries, ctx, layer, self.chooses and ctx.config.routes(layer), scaling)
        if not on_cpu(q, pages):
            out, visual, regions = self.elsewhere(step)
        elif self.compiled and decode_native.takes(queries):
            out, visual, regions = self._in_compiled_code(step)
        else:
            out, visual, regions = self._in_buffers(step)
        if ctx.recorder is not None:
            visual = torch.as_tensor(visual, device=q.device).expand(batch, groups, heads // groups)
            self._record(step, visual.reshape(batch, heads), every_region(ctx) if regions is None else regions)
        return out.view(batch, heads, 1, dim)

    def elsewhere(self, step: LayerStep) -> Found:
        """On a GPU, or with gradients: plain torch."""
        regions = step.choose()
        out, allowed = decode_torch.attend(step.queries, step.pages, self.seen, regions, step.scaling)
        return out, None if step.ctx.recorder is None else allowed.sum(-1), regions

    def _in_compiled_code(self, step: LayerStep) -> Found:
        if step.routes and step.ctx.ranks_products:
            return decode_native.choose_and_attend(
                step.queries, step.pages, self.masks, step.ctx.pools, step.selections, step.scaling
            )
        regions = step.choose()
        out, visual = decode_native.attend(step.queries, step.pages, self.masks, regions, step.scaling)
        return out, visual, regions

    def _in_buffers(self, step: LayerStep) -> Found:
        regions, workspace = step.choose(), step.ctx.cache.workspace
        out, visual = decode_cpu.attend(
            step.queries, step.pages, self.masks, regions, self.complete, step.scaling, workspace
        )
        return out, visual, regions

    def _record(self, step: LayerStep, visual: Tensor, regions: Tensor) -> None:
        """Count the slots and columns that entered the softmax. visual: int64 [B, H]."""
        columns, role = self.seen.text_context, step.ctx.cache.text_context_layout.role
        visual = visual[:, :, None]
        context, text = ((columns & (role == r)).sum(-1)[:, None, None].expand_as(visual) for r in (CONTEXT, TEXT))
        before = self.seen.pages.sum(-1)[:, None]
        step.ctx.recorder.record(step.layer, regions, Counts(visual, context, text, before, before > 0))


def on_cpu(q: Tensor, pages: LayerPages) -> bool:
    """Whether `native.py` or `cpu.py` can take a step: on a CPU with all pages at hand, without gradients, and not
    while torch.compile or export traces."""
    if q.device.type != "cpu" or torch.compiler.is_compiling() or not pages.resident:
        return False
    return not needs_gradients(q, pages)


def needs_gradients(q: Tensor, pages: LayerPages) -> bool:
    """Whether a gradient is to pass through this step."""
    return torch.is_grad_enabled() and (q.requires_grad or pages.text_context_keys.requires_grad)
