"""Region descriptors and the scores of queries against them (paper, section 3.2 and eq. 2). All in fp32, no gradient.

A descriptor is one `RegionDescriptor`: what is kept of a region's keys, and how a query scores it.
`GazeConfig.descriptor` names one: "mean" (the paper), "max", "minmax", "oracle", or one of `register_descriptor`.

Shapes: B rows, H query heads, G KV heads, n = H/G query heads per KV head, S keys, Q queries, R regions, D head size,
W width of a descriptor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cambrian_gaze.plugins import registers, remedy

MASS_PAIRS = 2**24
"""Pairs of a query (of a head) and a key whose logits `attention_mass_scores` holds at once."""


class RegionDescriptor:
    """What is kept of a region and how queries score it. Subclass it and give an instance to `register_descriptor`.

    A subclass writes `describe` and `score`, or with `needs_keys` only `score_keys`; and always the two `twin_`
    methods: the same for one region and one query, as plainly as possible, which `oracle.py` runs in tests.
    """

    name: str = ""
    """What `GazeConfig.descriptor` calls it."""

    is_product: bool = False
    """True where W = D and the score is q · d. Decoding kernels then rank the regions themselves."""

    needs_keys: bool = False
    """True where scores are made of all keys at each query, and nothing is kept of a region: costs dense attention."""

    def describe(self, keys: Tensor, region: Tensor, num_regions: int) -> Tensor:
        """Descriptors [B, G, R, W] of fp32 or fp64 keys [B, G, S, D]; `region` is int64 [B, S], -1 for keys of none.

        The cache describes a region again from all its keys whenever some arrive. `reduce_regions` helps.
        """
        raise NotImplementedError

    def score(self, q: Tensor, descriptors: Tensor) -> Tensor:
        """Scores [B, G, n, Q, R] of queries [B, G, n, Q, D] against descriptors [B, G, R, W]; the higher the better."""
        raise NotImplementedError

    def score_keys(
        self, q: Tensor, keys: Tensor, region: Tensor, num_regions: int, scaling: float, granularity: str
    ) -> Tensor:
        """Scores as `region_scores` returns them, of queries [B, H, Q, D] and keys [B, G, S, D]."""
        raise NotImplementedError

    def twin_describe(self, keys: Tensor) -> tuple[Tensor, ...]:
        """What is kept of the float64 keys [t, D] of one region, t of at least 1."""
        raise NotImplementedError

    def twin_score(self, q: Tensor, kept: tuple[Tensor, ...], scaling: float) -> float:
        """Score of one float64 query [D]; `kept` is what `twin_describe` returned, `scaling` the softmax's factor."""
        raise NotImplementedError


class _Product(RegionDescriptor):
    """One vector per region; the score is q · d."""

    is_product = True

    def __init__(self, name: str, how: str) -> None:
        self.name, self._how = name, how

    def describe(self, keys: Tensor, region: Tensor, num_regions: int) -> Tensor:
        return reduce_regions(keys, region, num_regions, self._how)[0]

    def score(self, q: Tensor, descriptors: Tensor) -> Tensor:
        return _products(q.flatten(2, 3), descriptors).view(*q.shape[:-1], -1)


class _Box(RegionDescriptor):
    """Minimum and maximum of the keys side by side, W = 2·D; the score is the upper bound of q · k over that box."""

    name = "minmax"

    def describe(self, keys: Tensor, region: Tensor, num_regions: int) -> Tensor:
        return torch.cat(reduce_regions(keys, region, num_regions, "amin", "amax"), dim=-1)

    def score(self, q: Tensor, descriptors: Tensor) -> Tensor:
        low, high = (d.unsqueeze(2).transpose(-1, -2) for d in descriptors.split(q.shape[-1], dim=-1))
        return q.clamp(min=0) @ high + q.clamp(max=0) @ low


class _AttentionMass(RegionDescriptor):
    """The region's share of the dense attention."""

    name = "oracle"
    needs_keys = True

    def score_keys(
        self, q: Tensor, keys: Tensor, region: Tensor, num_regions: int, scaling: float, granularity: str
    ) -> Tensor:
        return attention_mass_scores(q, keys, region, num_regions, scaling, granularity)


_OWN = (_Product("mean", "mean"), _Product("max", "amax"), _Box(), _AttentionMass())
"""The twins of these are loops of `oracle.py` itself."""

DESCRIPTORS: dict[str, RegionDescriptor] = {descriptor.name: descriptor for descriptor in _OWN}
"""By name. `register_descriptor` adds to it."""


@registers("descriptor")
def register_descriptor(descriptor: RegionDescriptor) -> RegionDescriptor:
    """Make `GazeConfig(descriptor=descriptor.name)` mean this one, in this process; returns it.

    Raises: ValueError where the name is missing or taken, or where a method is missing.
    """
    if not descriptor.name or descriptor.name in DESCRIPTORS:
        taken = ", ".join(DESCRIPTORS)
        raise ValueError(f"a descriptor needs a name of its own, got {descriptor.name!r}; taken: {taken}")
    wanted = ("score_keys",) if descriptor.needs_keys else ("describe", "score")
    for method in (*wanted, "twin_describe", "twin_score"):
        if getattr(type(descriptor), method) is getattr(RegionDescriptor, method):
            raise ValueError(f"descriptor {descriptor.name!r} has no method {method}; see RegionDescriptor.{method}")
    DESCRIPTORS[descriptor.name] = descriptor
    return descriptor


def descriptor_named(name: str) -> RegionDescriptor:
    """Raises: ValueError for a name that nobody registered."""
    if name not in DESCRIPTORS:
        raise ValueError(
            f"descriptor must be one of {', '.join(DESCRIPTORS)}, got {name!r}; "
            f"{remedy('descriptor', name, 'gaze.descriptors.register_descriptor')}"
        )
    return DESCRIPTORS[name]


@torch.no_grad()
def describe(keys: Tensor, region: Tensor, num_regions: int, kind: str) -> Tensor:
    """Descriptor of every region from its keys.

    Args:
        keys: [B, G, S, D].
        region: int64 [B, S], -1 for keys of no region.
        kind: a descriptor's name; not one that `needs_keys`.

    Returns: fp32 (fp64 for fp64 keys) [B, G, R, W]; for those of this module 0 where a region has no key.
    """
    wide = torch.promote_types(keys.dtype, torch.float32)
    return descriptor_named(kind).describe(keys.to(wide), region, num_regions)


def reduce_regions(keys: Tensor, region: Tensor, num_regions: int, *kinds: str) -> list[Tensor]:
    """[B, G, R, D] for each of `kinds` ("mean", "amin", "amax") of the keys [B, G, S, D] of regions; 0 without."""
    batch, heads, length, dim = keys.shape
    flat = keys.transpose(1, 2).reshape(batch * length, heads * dim)
    bucket = torch.where(region < 0, num_regions, region)
    bucket = bucket + torch.arange(batch, device=keys.device)[:, None] * (num_regions + 1)
    bucket = bucket.flatten()
    shape = (batch * (num_regions + 1), heads * dim)

    def reduce(kind: str) -> Tensor:
        out = flat.new_zeros(shape)
        if kind == "mean":
            count = flat.new_zeros(shape[0]).index_add_(0, bucket, flat.new_ones(len(bucket)))
            out = out.index_add_(0, bucket, flat) / count.clamp(min=1)[:, None]
        else:
            out = out.scatter_reduce_(0, bucket[:, None].expand_as(flat), flat, kind, include_self=False)
        return out.view(batch, num_regions + 1, heads, dim)[:, :num_regions].transpose(1, 2)

    return [reduce(kind) for kind in kinds]


@torch.no_grad()
def region_scores(q: Tensor, descriptors: Tensor, kind: str, granularity: str) -> Tensor:
    """Score of every query and region: s = q · d (eq. 2), no 1/√d, or what else the descriptor says.

    Args:
        q: [B, H, Q, D].
        descriptors: as `describe` returns them.
        kind: the descriptor's name.
        granularity: "q_head" → [B, H, Q, R]; "kv_group" (averaged over the heads of a KV head) → [B, G, Q, R].
    """
    descriptor = descriptor_named(kind)
    groups = descriptors.shape[1]
    batch, heads, length, dim = q.shape
    average = granularity == "kv_group"
    grouped = q.reshape(batch, groups, heads // groups, length, dim)
    if average and descriptor.is_product:  # linear in q: one product for all heads of a KV head
        mean = grouped.mean(2, keepdim=True, dtype=descriptors.dtype)
        return descriptor.score(mean, descriptors).squeeze(2)
    scores = descriptor.score(grouped.to(descriptors.dtype), descriptors)
    return scores.mean(2) if average else scores.flatten(1, 2)


def _products(q: Tensor, descriptors: Tensor) -> Tensor:
    """[B, G, N, D] and [B, G, R, D] → [B, G, N, R]; `matmul` takes several times as long to set this up."""
    products = torch.bmm(q.flatten(0, 1), descriptors.flatten(0, 1).transpose(1, 2))
    return products.view(*q.shape[:3], -1)


@torch.no_grad()
def attention_mass_scores(
    q: Tensor, keys: Tensor, region: Tensor, num_regions: int, scaling: float, granularity: str
) -> Tensor:
    """The "oracle" descriptor: log of each region's share of the dense attention, up to a constant per query.

    Same shapes as `describe` and `region_scores`; costs dense attention, of a bounded number of queries at a time.
    """
    step = max(1, MASS_PAIRS // max(1, q.shape[0] * q.shape[1] * keys.shape[2]))
    if q.shape[2] > step:
        given = keys, region, num_regions, scaling, granularity
        return torch.cat([attention_mass_scores(part, *given) for part in q.split(step, dim=2)], dim=2)
    batch, heads, length, dim = q.shape
    groups, size = keys.shape[1], keys.shape[2]
    wide = torch.promote_types(q.dtype, torch.float32)
    grouped = q.to(wide).reshape(batch, groups, -1, dim)
    logits = (grouped @ keys.to(wide).transpose(-1, -2) * scaling).view(batch, heads, length, size)
    bucket = torch.where(region < 0, num_regions, region)[:, None, None, :].expand_as(logits)
    # A peak of each region's own: with one over all keys, a key that the query may not even see could underflow them.
    peak = logits.new_full((batch, heads, length, num_regions + 1), -torch.inf)
    peak = peak.scatter_reduce_(-1, bucket, logits, "amax")
    mass = torch.zeros_like(peak).scatter_add_(-1, bucket, (logits - peak.gather(-1, bucket)).exp())
    scores = (mass.log() + peak)[..., :num_regions]
    if granularity == "kv_group":
        scores = scores.view(batch, groups, heads // groups, length, num_regions).mean(2)
    return scores
