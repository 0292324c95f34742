"""Sequence parallelism by all-to-all (DeepSpeed-Ulysses, arXiv 2309.14509): the ranks of a group hold a slice of every
row's tokens each, and inside attention all tokens of a slice of the heads each.

A rank's attention sees the whole sequence, so layout, visibility and routing are those of one rank and every backend
runs as it is. What differs between ranks is only which heads they compute.
Shapes: P ranks of a group, B rows, S tokens of a row, s = ⌈S/P⌉ of them on a rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def check_heads(heads: int, kv_heads: int, size: int) -> None:
    """Raises ValueError where the heads of a decoder cannot be dealt out to `size` ranks."""
    if heads % size == 0 and kv_heads % size == 0:
        return
    fitting = [str(n) for n in range(2, kv_heads + 1) if heads % n == 0 and kv_heads % n == 0]
    raise ValueError(
        f"{heads} query heads and {kv_heads} key-value heads cannot be shared out evenly over the {size} ranks of a "
        f"sequence-parallel group; sizes that divide both: {', '.join(fitting) or 'none'}"
    )


class SequenceGroup:
    """The ranks that share the rows of a batch. Every collective here is entered by all of them, in the same order."""

    def __init__(self, process_group: dist.ProcessGroup) -> None:
        self.process_group = process_group
        self.size = dist.get_world_size(process_group)
        self.rank = dist.get_rank(process_group)

    def own(self, x: Tensor, dim: int = 1, fill: float = 0) -> Tensor:
        """This rank's slice along `dim`, which is filled up to a multiple of P with `fill`. A copy, so that the whole
        can be freed."""
        each = -(-x.shape[dim] // self.size)
        whole = pad_to(x, dim, each * self.size, fill)
        return whole.narrow(dim, self.rank * each, each).clone(memory_format=torch.contiguous_format)

    def gather(self, x: Tensor) -> Tensor:
        """[n, …] of each rank → [P·n, …] on all. A rank's gradient is the sum of what all ranks ask of its part."""
        return all_to_all(x.expand(self.size, *x.shape), self.process_group).flatten(0, 1)

    def total(self, x: Tensor) -> Tensor:
        """Sum over the ranks, without gradients."""
        x = x.detach().clone()
        dist.all_reduce(x, group=self.process_group)
        return x


@dataclass(frozen=True)
class SequenceShards:
    """One forward call's rows of `length` tokens, spread over `group`."""

    group: SequenceGroup
    length: int

    def to_heads(self, x: Tensor) -> Tensor:
        """[B, H, s, D] → [B, H/P, S, D]."""
        x = all_to_all(x.unflatten(1, (self.group.size, -1)).movedim(1, 0), self.group.process_group)
        return x.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, : self.length]

    def to_tokens(self, x: Tensor) -> Tensor:
        """[B, H/P, S, D] → [B, H, s, D]; what fills up the last slice is zero."""
        size = self.group.size
        x = pad_to(x, 2, -(-self.length // size) * size).unflatten(2, (size, -1))
        return all_to_all(x.movedim(2, 0), self.group.process_group).movedim(0, 1).flatten(1, 2)


def pad_to(x: Tensor, dim: int, length: int, fill: float = 0) -> Tensor:
    """`x` with `fill` behind it along `dim`, up to `length`."""
    missing = length - x.shape[dim]
    if not missing:
        return x
    return torch.cat([x, x.new_full((*x.shape[:dim], missing, *x.shape[dim + 1 :]), fill)], dim)


def all_to_all(x: Tensor, process_group: dist.ProcessGroup) -> Tensor:
    """[P, …] → [P, …]: part p goes to rank p, and comes from there. With gradients, which go back the same way."""
    return _AllToAll.apply(x.contiguous(), process_group)


class _AllToAll(torch.autograd.Function):
    """`all_to_all_single`, which both gloo and NCCL have. It is its own transpose, and so its own backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, process_group: dist.ProcessGroup) -> Tensor:
        ctx.process_group = process_group
        received = torch.empty_like(x)
        dist.all_to_all_single(received, x, group=process_group)
        return received

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return all_to_all(gradient, ctx.process_group), None
