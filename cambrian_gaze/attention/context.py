"""`GazeContext`: what an attention call needs beside q, k and v. One object per forward call, the same for all layers.

Built before the decoder runs and only read inside it (the saved selections apart), so that gradient checkpointing,
DeepSpeed and torch.compile carry it as an ordinary keyword.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cambrian_gaze.attention.decode.workspace import Workspace
from cambrian_gaze.attention.policy.state import PolicyState
from cambrian_gaze.attention.record import GazeRecorder
from cambrian_gaze.attention.rotary import unrotate
from cambrian_gaze.attention.sequence import SequenceShards
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.descriptors import attention_mass_scores, describe, descriptor_named, region_scores
from cambrian_gaze.gaze.layout import TokenLayout
from cambrian_gaze.gaze.routing import Pool, as_mask, choose_from, pools
from cambrian_gaze.gaze.visibility import less_hidden, regions_offered, routing_queries


class LayerPages(Protocol):
    """One layer of a gaze cache: B rows, G KV heads, R regions of m slots, T text and context columns, D head size."""

    resident: bool
    """Whether all pages are on the decoder's device."""
    page_keys: Tensor
    """[B, G, R, m, D], region-major. Where pages live in host memory, reading this brings them all to the device."""
    page_values: Tensor
    """[B, G, R, m, D]."""
    descriptors: Tensor | None
    """fp32 [B, G, R, D] (2·D for "minmax"); None for the "oracle" descriptor."""
    text_context_keys: Tensor
    """[B, G, T, D]: text and context."""
    text_context_values: Tensor
    """[B, G, T, D]."""

    def page_rows(self) -> tuple[Tensor, Tensor, int]:
        """Keys and values of a resident layer as rows [B·G·room, m·D], and room: page r of row b and KV head g is at
        (b·G + g)·room + r."""

    def gather_pages(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, G, N, m, D] of the regions int64 [B, G, N]; of -1, some finite page."""

    def gather_keys(self, chosen: Tensor) -> Tensor:
        """Keys [B, G, N, m, D] of regions that this step has gathered already; not counted as read once more."""

    def prefetch(self, chosen: Tensor) -> None:
        """The regions int64 [B, H or G, K] were looked at last: the next step probably looks there again. Asked only
        of a layer that is not resident."""


def text_context_columns(pages: LayerPages) -> tuple[Tensor, Tensor]:
    """Keys and values [B, G, T, D] of text and context for code that is handed addresses: both with the same strides,
    columns of D elements one after the other."""
    keys, values = pages.text_context_keys, pages.text_context_values
    if keys.stride() != values.stride() or keys.stride()[2:] != (keys.shape[3], 1):
        return keys.contiguous(), values.contiguous()
    return keys, values


class Seen(NamedTuple):
    """What a decoding step's query may see of a cache; None instead of a mask says that everything is seen."""

    pages: Tensor | None
    """bool [B, R·m]."""
    text_context: Tensor | None
    """bool [B, T]."""


class PagedCache(Protocol):
    """A gaze cache as attention sees it; shared bookkeeping and one `LayerPages` per decoder layer."""

    layers: list[LayerPages]
    page_layout: TokenLayout
    """Layout of the page slots, [B, R·m] tokens; empty slots have role PAD."""
    text_context_layout: TokenLayout
    """Layout of the text and context columns, [B, T]; empty columns have role PAD."""
    workspace: Workspace
    """Buffers of the decoding step on a CPU, shared by the layers."""
    length: int
    """Tokens stored, padding included."""

    def key_layout(self) -> TokenLayout:
        """Layout of [page slots, text and context columns]."""


class Prepared(Protocol):
    """What was derived from the layouts of one forward call, once for all layers, and attention by it.

    Each backend, each way to decode and the policies have a dataclass of their own, whose fields only they know.
    """

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, ctx: GazeContext, layer: int, scaling: float, dropout: float
    ) -> Tensor:
        """Attention of one layer, with gradients: q [B, H, Q, D], k and v [B, G, S, D] → [B, H, Q, D]."""


@dataclass
class GazeContext:
    """Layouts, cache handle and options of one forward call."""

    config: GazeConfig
    """The configuration under this call's options."""

    layout: TokenLayout
    """Layout of the queries: the tokens of this call."""

    key_layout: TokenLayout
    """Layout of the keys that a backend is handed, in their order."""

    cache: PagedCache | None = None
    """The gaze cache, already extended by this call's tokens."""

    reads_cache: bool = False
    """Whether the cache holds more than this call's tokens, so that keys come from it."""

    is_step: bool = False
    """One text token per row against a cache: the decode path."""

    rotary: tuple[Tensor, Tensor] | None = None
    """cos and sin [B, Q, D] of the queries, for `descriptor_keys: pre_rope`."""

    key_rotary: tuple[Tensor, Tensor] | None = None
    """cos and sin [B, S, D] of the keys without a cache, where the queries are only some of the call's tokens."""

    recorder: GazeRecorder | None = None
    """Counts what is attended, where the caller asked for it."""

    mass: list[Tensor] | None = None
    """Where given, each layer that chooses appends what `_mass_inside` returns; costs dense attention."""

    saved: dict[int, Tensor] | None = None
    """Selections per layer under activation checkpointing: saved, not recomputed, since near-ties flip."""

    shards: SequenceShards | None = None
    """How the tokens are spread over ranks, under sequence parallelism. The layouts are of all tokens all the same."""

    hidden: Tensor | None = None
    """bool [B, R], regions that text queries are not offered, although they lie before them."""

    policy: PolicyState | None = None
    """What limits who sees what instead of routing: a baseline (see `attention.policy`)."""

    prepared: Prepared | None = field(default=None, init=False, repr=False)
    """Set by `registry.prepare`. A copy (`dataclasses.replace`) has to be prepared anew."""

    @cached_property
    def offered(self) -> Tensor:
        """bool [B, Q, R]: `visibility.regions_offered`, less the `hidden`. Where many queries do not route, ask for it
        of those that do (`of_queries`)."""
        offered = regions_offered(self.layout, self.config)
        return offered if self.hidden is None else less_hidden(offered, self.hidden, self.layout)

    @property
    def offered_to_some(self) -> Tensor:
        """bool [B, R]: the regions that some query of this call is offered."""
        return self.of_routing_queries()[0].offered.any(1)

    @property
    def keeps_every_region(self) -> bool:
        """Whether the budget covers all regions that there are, so that there is nothing to choose."""
        return self.hidden is None and all(pool.most >= self.layout.num_regions for pool in self.pools)

    @property
    def chooses_in_full(self) -> bool:
        """Whether no query keeps fewer regions than `choose` returns places, as far as the host knows."""
        return all(pool.dropped is None for pool in self.pools)

    @cached_property
    def pools(self) -> tuple[Pool, ...]:
        """The regions that compete in one TopK, the same in every layer."""
        return pools(self.offered, self.layout, self.config)

    @property
    def ranks_products(self) -> bool:
        """Whether `choose` does nothing but rank products of queries and the cache's one-vector descriptors."""
        plain = descriptor_named(self.config.descriptor).is_product and self.config.descriptor_keys == "post_rope"
        return plain and self.cache is not None and self.saved is None and self.mass is None

    def of_queries(self, tokens: Tensor) -> GazeContext:
        """This context for some of the call's queries, int64 [B, T] (token numbers): for `choose` alone."""

        def take(x: Tensor) -> Tensor:
            return x.gather(1, tokens[..., None].expand(-1, -1, x.shape[2]))

        return dataclasses.replace(
            self,
            layout=self.layout.tokens(tokens),
            rotary=None if self.rotary is None else tuple(take(x.expand(len(tokens), -1, -1)) for x in self.rotary),
            key_rotary=self.rotary,
            recorder=None,
        )

    def of_routing_queries(self) -> tuple[GazeContext, Tensor]:
        """This context for the queries that route (in training a small part of the tokens), and the numbers of these.

        One synchronisation with the device. Rows with fewer such queries are filled up with others, which are offered
        no region.

        Returns: the context, for `choose` alone; int64 [B, T], token numbers.
        """
        routing = routing_queries(self.layout, self.config)
        most = max(1, int(routing.sum(1).max()))
        tokens = (~routing).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        return self.of_queries(tokens), tokens

    def choose(self, layer: int, q: Tensor, k: Tensor | None, key_region: Tensor, scaling: float) -> Tensor:
        """Regions that each query of this layer looks at.

        Args:
            q: [B, H, Q, D]; k: [B, G, S, D], keys of regions `key_region` int64 [B, S] (-1 for none). With a cache
                only the "oracle" descriptor reads them.

        Returns: int64 [B, H or G, Q, K], -1 where fewer are kept.
        """
        if self.saved is not None and layer in self.saved:
            return self.saved[layer]
        with torch.no_grad():
            scores = self._scores(layer, q, k, key_region, scaling)
            regions = choose_from(scores, self.pools)
            if self.cache is not None and not self.is_step and not self.cache.layers[layer].resident:
                self.cache.layers[layer].prefetch(_last_choice(regions))
            if self.mass is not None:
                self.mass.append(self._mass_inside(q, k, key_region, regions, scaling))
        if self.saved is not None:
            self.saved[layer] = regions
        return regions

    def _mass_inside(self, q: Tensor, k: Tensor, key_region: Tensor, regions: Tensor, scaling: float) -> Tensor:
        """How much of the dense attention to visual tokens lies inside the chosen regions. Arguments as `choose`.

        Returns: fp64 [2]: the sum of these shares over all pairs of a head and a query that is offered a region; and
            the number of these pairs.
        """
        scores = attention_mass_scores(q, k, key_region, self.layout.num_regions, scaling, "q_head")
        offered = self.offered[:, None]
        shares = scores.double().masked_fill(~offered, -torch.inf).softmax(-1)
        chosen = as_mask(regions, self.layout.num_regions).repeat_interleave(q.shape[1] // regions.shape[1], dim=1)
        inside = (shares * (chosen & offered)).sum(-1)
        asked = offered.any(-1).expand_as(inside)
        return torch.stack([inside[asked].sum(), asked.sum().double()])

    def _scores(self, layer: int, q: Tensor, k: Tensor | None, key_region: Tensor, scaling: float) -> Tensor:
        config, num_regions = self.config, self.layout.num_regions
        descriptor = descriptor_named(config.descriptor)
        if descriptor.needs_keys:
            return descriptor.score_keys(q, k, key_region, num_regions, scaling, config.head_granularity)
        if config.descriptor_keys == "pre_rope":
            q = unrotate(q, *self.rotary)
        if self.cache is not None:
            descriptors = self.cache.layers[layer].descriptors
        else:
            keys = unrotate(k, *(self.key_rotary or self.rotary)) if config.descriptor_keys == "pre_rope" else k
            descriptors = describe(keys, key_region, num_regions, config.descriptor)
        return region_scores(q, descriptors, config.descriptor, config.head_granularity)


def _last_choice(regions: Tensor) -> Tensor:
    """The choice of each row's last query that chose anything, int64 [B, H or G, K], from all choices int64
    [B, H or G, Q, K]. In rows with fewer queries that route, queries without a choice follow them."""
    chose = (regions >= 0).any(3).any(1)
    number = torch.arange(chose.shape[1], device=chose.device)
    last = torch.where(chose, number, 0).amax(1)[:, None, None, None]
    return regions.gather(2, last.expand(-1, regions.shape[1], -1, regions.shape[3]))[:, :, 0]
