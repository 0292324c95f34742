"""Cross-entropy of the language-model head without its logits: a few hundred tokens at a time.

Logits of all supervised tokens in float32 over 152,000 entries are the largest tensor of a training step. Here a chunk
of them lives only while its losses, and in the backward pass its gradients, are computed, by the same code on every
device. torch's own `linear_cross_entropy` (2.13 on) was measured too: with fewer tokens than the head is wide, as in
training on answers, it takes 60 times as long on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHUNK_BYTES = 256 * 2**20
"""float32 logits that are alive at a time."""


def head_losses(hidden: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
    """float32 [N], the cross-entropy of each token: hidden [N, width], targets int64 [N] in the vocabulary.

    Differentiable in `hidden` and the head's weight; the same as `cross_entropy(head(hidden).float(), targets)` up to
    the order of sums. A head that is more than a linear layer (an adapter, say) is called once for all tokens.
    """
    if type(head) is not nn.Linear or head.bias is not None:
        return nn.functional.cross_entropy(head(hidden).float(), targets, reduction="none")
    chunk = max(1, CHUNK_BYTES // (4 * head.out_features))
    if len(hidden) <= chunk:
        return nn.functional.cross_entropy(head(hidden).float(), targets, reduction="none")
    return _ChunkedLosses.apply(hidden, head.weight, targets, chunk)


class _ChunkedLosses(torch.autograd.Function):
    """Logits chunk by chunk, in the forward pass and once more in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        normalisers = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        chosen = torch.empty_like(normalisers)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = nn.functional.linear(hidden[part], weight).float()
            normalisers[part] = logits.logsumexp(1)
            chosen[part] = logits.gather(1, targets[part, None])[:, 0]
        ctx.save_for_backward(hidden, weight, targets, normalisers)
        ctx.chunk = chunk
        return normalisers - chosen

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, targets, normalisers = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            shares = nn.functional.linear(hidden[part], weight).float()
            shares.sub_(normalisers[part, None]).exp_()
            shares.scatter_add_(1, targets[part, None], -torch.ones_like(targets[part, None], dtype=torch.float32))
            shares = shares.mul_(grad[part, None]).to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(shares, weight, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight.addmm_(shares.t(), hidden[part])
        return grad_hidden, grad_weight, None, None
