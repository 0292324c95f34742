"""The chunked loss of the head: values, gradients, and what it allocates."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cambrian_gaze.models import head_loss
from cambrian_gaze.models.head_loss import head_losses

N, WIDTH, VOCABULARY = 37, 16, 211


def case(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False, dtype=dtype)
    nn.init.normal_(head.weight)
    return torch.randn(N, WIDTH, dtype=dtype, requires_grad=True), head, torch.randint(0, VOCABULARY, (N,))


@pytest.fixture
def chunks_of(monkeypatch):
    """Sets how many tokens a chunk holds."""
    return lambda tokens: monkeypatch.setattr(head_loss, "CHUNK_BYTES", 4 * VOCABULARY * tokens)


def gradients(losses, hidden, head):
    (losses * torch.linspace(0.1, 2, N)).sum().backward()
    taken = [hidden.grad.clone(), head.weight.grad.clone()]
    hidden.grad = head.weight.grad = None
    return taken


@pytest.mark.parametrize("tokens", [1, 5, 36, 37, 1000])
def test_the_same_as_whole_logits(chunks_of, tokens):
    chunks_of(tokens)
    hidden, head, targets = case()
    want = nn.functional.cross_entropy(head(hidden), targets, reduction="none")
    got = head_losses(hidden, head, targets)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)
    for mine, plain in zip(gradients(got, hidden, head), gradients(want, hidden, head), strict=True):
        assert (mine - plain).norm() <= 1e-6 * plain.norm()


def test_bf16_is_as_near_to_float64_as_whole_logits(chunks_of):
    chunks_of(5)
    hidden, head, targets = case(torch.bfloat16)
    exact = [x.detach().double().requires_grad_() for x in (hidden, head.weight)]
    truth = nn.functional.cross_entropy(exact[0] @ exact[1].t(), targets, reduction="none")
    (truth * torch.linspace(0.1, 2, N)).sum().backward()
    errors = []
    for losses in (
        head_losses(hidden, head, targets),
        nn.functional.cross_entropy(head(hidden).float(), targets, reduction="none"),
    ):
        found = gradients(losses, hidden, head)
        errors.append([(a.double() - b.grad).norm() / b.grad.norm() for a, b in zip(found, exact, strict=True)])
    assert all(mine <= 1.5 * plain for mine, plain in zip(*errors, strict=True)), errors


@pytest.mark.parametrize("frozen", ["hidden", "head"])
def test_what_is_frozen_gets_no_gradient(chunks_of, frozen):
    chunks_of(5)
    hidden, head, targets = case()
    (hidden if frozen == "hidden" else head.weight).requires_grad_(False)
    head_losses(hidden, head, targets).sum().backward()
    assert (hidden.grad is None) == (frozen == "hidden") and (head.weight.grad is None) == (frozen == "head")


def test_a_head_that_is_more_than_linear_is_called(chunks_of):
    chunks_of(5)
    hidden, head, targets = case()
    scaled = nn.Sequential(head, nn.Softplus())
    want = nn.functional.cross_entropy(scaled(hidden), targets, reduction="none")
    torch.testing.assert_close(head_losses(hidden, scaled, targets), want)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation returned, in elements."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_no_tensor_holds_the_logits_of_all_tokens(chunks_of):
    chunks_of(5)
    hidden, head, targets = case()
    with Largest() as seen:
        head_losses(hidden, head, targets).sum().backward()
    assert seen.elements <= max(5 * VOCABULARY, VOCABULARY * WIDTH) < N * VOCABULARY


def test_a_training_step_is_the_same(chunks_of, model, batch):
    labels = batch["input_ids"].clone()
    found = []
    for tokens in (2, 10**6):
        chunks_of(tokens)
        model.zero_grad()
        output = model(**batch, labels=labels, skip_logits=True, return_token_losses=True)
        output.loss.backward()
        found.append(
            [output.loss.detach(), output.token_losses, *(p.grad for p in model.parameters() if p.grad is not None)]
        )
    plain = model(**batch, labels=labels).loss
    torch.testing.assert_close(found[0][0], plain.detach(), atol=1e-6, rtol=1e-6)
    for chunked, whole in zip(*found, strict=True):
        torch.testing.assert_close(chunked, whole, atol=2e-6, rtol=1e-5)
    model.zero_grad()
