"""An attention backend of one's own: registered, it serves training, prefill and generation by its name."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from cambrian_gaze import CambrianGazeProcessor
from cambrian_gaze.attention import BACKENDS, Backend, register_backend
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.routing import as_mask
from cambrian_gaze.gaze.visibility import routable, structure
from tests.attention._run import gradients, real, reference, run
from tests.models.conftest import ask, make_model, noise


@dataclass(frozen=True)
class PlainSoftmax:
    """A toy: the softmax written out, with the square of all pairs."""

    seen: Tensor
    choice: Tensor
    """bool [B, 1, Q, S]: pairs that may be seen at all, and those of them that depend on what is chosen."""

    @classmethod
    def of(cls, ctx):
        pairs = ctx.layout, ctx.key_layout, ctx.config
        return cls(structure(*pairs)[:, None], routable(*pairs)[:, None])

    def attend(self, q, k, v, ctx, layer, scaling, dropout):
        seen, region = self.seen, ctx.key_layout.region
        if ctx.layout.num_regions and ctx.config.routes(layer):
            chosen = as_mask(ctx.choose(layer, q.detach(), k, region, scaling), ctx.layout.num_regions)
            at_key = region.clamp(min=0)[:, None, None].expand(*chosen.shape[:3], -1)
            seen = seen & (~self.choice | chosen.gather(-1, at_key))
        k, v, seen = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v, seen))
        lowest = torch.finfo(q.dtype).min  # not -inf: a row of padding sees nothing
        return (q @ k.mT * scaling).masked_fill(~seen, lowest).softmax(-1) @ v


@pytest.fixture
def toy():
    def refuses(config: GazeConfig, device: torch.device, dtype: torch.dtype) -> str | None:
        return "the toy has no fp16" if dtype == torch.float16 else None

    yield register_backend(Backend("plain_softmax", PlainSoftmax.of, refuses))
    del BACKENDS["plain_softmax"]


@pytest.mark.parametrize("seed", [0, 4, 7, 13, 20])
def test_outputs_and_gradients_equal_the_oracle(toy, seed):
    case, layout, tensors, want, want_grads, _ = reference(seed)
    inputs, where = tuple(x.clone().requires_grad_() for x in tensors), real(layout, case.heads)
    out = run(*inputs, layout, case.config.override(backend="plain_softmax"))
    assert torch.allclose(out[where], want[where], atol=1e-11)
    for got, expected in zip(gradients(out, inputs, where), want_grads, strict=True):
        assert torch.allclose(got, expected, atol=1e-11)


def test_a_model_generates_with_it(toy):
    model, processor = make_model(), CambrianGazeProcessor.from_preset("tiny")
    inputs = processor.apply_chat_template(ask(noise(0), noise(1)), tokenize=True, add_generation_prompt=True)
    options = dict(max_new_tokens=6, do_sample=False)
    answers = [model.generate(**inputs, **options, gaze={"top_k": 2, "backend": b}) for b in ("masked", toy.name)]
    assert torch.equal(*answers)


def test_what_it_refuses_is_said(toy):
    with pytest.raises(ValueError, match="'plain_softmax' cannot run here: the toy has no fp16"):
        make_model(gaze={"backend": "plain_softmax"}).half()(**text_alone())


def text_alone() -> dict[str, Tensor]:
    return CambrianGazeProcessor.from_preset("tiny").apply_chat_template(
        ask(text="hello"), tokenize=True, add_generation_prompt=True
    )
