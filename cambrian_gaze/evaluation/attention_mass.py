"""How much of the dense attention to the pictures lies inside the chosen regions, and on how few entries it lies.

Shapes: T tokens of an answer, L layers, H query heads, N visual tokens, R regions, K chosen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

HALF, MOST = 0.5, 0.9
"""Shares of the attention whose fewest entries are counted."""


def answer_mass(trace: Any, row: int, length: int, region: Tensor) -> dict[str, Any]:
    """Of the queries that predict the first `length` tokens of a row.

    Args:
        trace: a `GazeTrace` of `return_gaze="mass"`.
        region: int64 [N], the region of each of the row's visual tokens.

    Returns: lists [T][L][H]: `inside`, the share of the dense visual attention inside the chosen regions; `best`, what
    as many regions could hold at most; `half` and `most`, the fewest entries that hold half and nine tenths of it; and
    `half_seen` and `most_seen`, the same of the entries in the chosen regions alone. Empty where nothing is to be seen.
    """
    if not len(region):
        return {}
    dense = trace.weights.dense[row, :length, :, :, : len(region)].double()
    chosen = trace.regions[row, :length]  # [T, L, H, K]
    regions = int(region.max()) + 1
    by_region = dense.new_zeros(*dense.shape[:-1], regions).index_add_(-1, region, dense)
    there = chosen >= 0
    inside = by_region.gather(-1, chosen.clamp(min=0)).masked_fill(~there, 0).sum(-1)
    ranked = by_region.sort(dim=-1, descending=True).values.cumsum(-1)
    count = there.sum(-1, keepdim=True)
    best = ranked.gather(-1, (count - 1).clamp(min=0)).masked_fill(count == 0, 0)[..., 0]
    mask = torch.zeros_like(by_region, dtype=torch.bool).scatter_(-1, chosen.clamp(min=0), there)
    seen = dense * mask[..., region]
    counts = {
        "half": fewest(dense, HALF), "most": fewest(dense, MOST),
        "half_seen": fewest(seen, HALF), "most_seen": fewest(seen, MOST),
    }  # fmt: skip
    shares = {"inside": inside, "best": best}
    return {
        **{name: [[[round(x, 4) for x in heads] for heads in layers] for layers in values.tolist()]
           for name, values in shares.items()},
        **{name: values.tolist() for name, values in counts.items()},
    }  # fmt: skip


def fewest(weights: Tensor, share: float) -> Tensor:
    """int64 [...]: the fewest of the weights [..., N] that together hold this share of their sum; 0 where it is 0."""
    ranked = weights.sort(dim=-1, descending=True).values.cumsum(-1)
    total = ranked[..., -1:]
    short = ranked < share * total * (1 - 1e-6)  # so that the last bit of a sum asks for no entry more
    return (short.sum(-1) + 1) * (total[..., 0] > 0)
