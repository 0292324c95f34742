"""A cache of random pages, text and context for `bench decode`, and the context of a step that reads it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from cambrian_gaze.attention import GazeContext, prepare
from cambrian_gaze.attention.decode.workspace import Workspace
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import CONTEXT, IMAGE, PAD, TEXT, VISUAL, TokenLayout

UNIT, REGION = 576, 36
"""Visual tokens of a unit (24 × 24) and of a region (6 × 6)."""


@dataclass
class RandomLayer:
    """Random pages, text and context of one layer."""

    page_keys: Tensor
    page_values: Tensor
    text_context_keys: Tensor
    text_context_values: Tensor
    resident: bool = True

    def page_rows(self) -> tuple[Tensor, Tensor, int]:
        room, slots, dim = self.page_keys.shape[2:]
        return self.page_keys.view(-1, slots * dim), self.page_values.view(-1, slots * dim), room

    def gather_pages(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        row, group = (torch.arange(n, device=chosen.device) for n in chosen.shape[:2])
        at = (row[:, None, None], group[None, :, None], chosen)
        return self.page_keys[at], self.page_values[at]

    def in_one_piece(self, text: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, G, R·m + text, D] for dense attention: pages, and text without context."""
        both = (self.page_keys, self.text_context_keys), (self.page_values, self.text_context_values)
        return tuple(torch.cat([pages.flatten(2, 3), flat[:, :, :text]], 2) for pages, flat in both)

    @property
    def descriptors(self) -> Tensor:
        return self._descriptors

    def __post_init__(self) -> None:
        self._descriptors = self.page_keys.float().mean(3)

    def double(self) -> RandomLayer:
        return RandomLayer(
            *(x.double() for x in (self.page_keys, self.page_values, self.text_context_keys, self.text_context_values))
        )


@dataclass
class RandomCache:
    """What attention reads of a gaze cache."""

    layers: list[RandomLayer]
    page_layout: TokenLayout
    text_context_layout: TokenLayout
    workspace: Workspace = field(default_factory=Workspace)


def step_context(config: GazeConfig, cache: RandomCache) -> GazeContext:
    """One text token after everything else."""
    last = cache.text_context_layout.tokens(slice(-1, None))
    return prepare(
        GazeContext(
            config=config,
            layout=last,
            key_layout=last,
            cache=cache,
            reads_cache=True,
            is_step=True,
        ),
        cache.layers[0].page_keys.device,
        cache.layers[0].page_keys.dtype,
    )


def layouts(batch: int, units: int, text: int, context: int, device: torch.device) -> tuple[TokenLayout, TokenLayout]:
    """Layouts of pages and columns: `units` images in a row, each with its context tokens, then text."""
    step, per_unit = UNIT + context, UNIT // REGION
    slots, unit = torch.arange(units * UNIT), torch.arange(units)
    of_context = torch.arange(units * context) // max(context, 1)
    regions = unit.repeat_interleave(per_unit)
    full = torch.full_like
    table = dict(
        region_size=full(regions, REGION),
        region_end=(regions + 1) * step,
        region_sample=full(regions, 0),
        region_modality=full(regions, IMAGE),
        region_unit=regions,
        num_units=torch.tensor(units),
        next_position=torch.tensor(units * step + text),
    )

    def layout(role: Tensor, index: Tensor, unit: Tensor, region: Tensor, slot: Tensor) -> TokenLayout:
        fields = dict(role=role.to(torch.int8), index=index, unit=unit, region=region, slot=slot, position_ids=index)
        fields |= dict(sample=full(index, 0).where(role != PAD, -1), routed=full(index, 1).bool(), **table)
        return TokenLayout(**{name: x.expand(batch, *x.shape).to(device) for name, x in fields.items()})

    pages = layout(
        full(slots, VISUAL), slots // UNIT * step + slots % UNIT, slots // UNIT, slots // REGION, slots % REGION
    )
    after = torch.arange(text)
    index = torch.cat(
        [of_context * step + UNIT + torch.arange(units * context) % max(context, 1), units * step + after]
    )
    nothing = full(index, -1)
    role = torch.cat([full(of_context, CONTEXT), full(after, TEXT)])
    return pages, layout(role, index, torch.cat([of_context, full(after, -1)]), nothing, nothing)
