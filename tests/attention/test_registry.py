"""A backend that is added from outside: the example in `register_backend`'s docstring, refusals, its own decoding."""

import dataclasses
import inspect
import textwrap
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cambrian_gaze.attention import BACKENDS, Backend, GazeContext, attend, prepare, register_backend, registry
from cambrian_gaze.attention.decode.step import DecodingStep
from cambrian_gaze.attention.decode.triton import TritonStep
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.routing import as_mask
from cambrian_gaze.gaze.visibility import routable, structure
from tests.attention._decode import step
from tests.attention._run import SCALING, context, gradients, real, reference

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "BACKENDS", dict(BACKENDS))


def the_example() -> None:
    """Run the code in the docstring, with the names that it says it needs."""
    lines = inspect.getdoc(register_backend).split("\n")
    code = textwrap.dedent("\n".join(line for line in lines if line.startswith("    ")))
    names = [dataclass, Tensor, Backend, register_backend, structure, routable, as_mask, scaled_dot_product_attention]
    exec(code, {name.__name__: name for name in names})


@pytest.mark.parametrize("seed", range(12))
def test_the_example_of_the_docstring_is_right(seed):
    the_example()
    case, layout, tensors, want, want_grads, _ = reference(seed)
    inputs, where = tuple(x.clone().requires_grad_() for x in tensors), real(layout, case.heads)
    ctx = prepare(context(layout, case.config.override(backend="under_a_mask")), CPU, torch.float64)
    out = attend(*inputs, ctx, layer=0, scaling=SCALING)
    assert torch.allclose(out[where], want[where], atol=1e-11)
    for got, expected in zip(gradients(out, inputs, where), want_grads, strict=True):
        assert torch.allclose(got, expected, atol=1e-11)


@pytest.mark.parametrize("name", ["masked", "triton", "auto"])
def test_a_name_that_is_taken_is_refused(name):
    with pytest.raises(ValueError, match=f"{name!r} already"):
        register_backend(dataclasses.replace(BACKENDS["masked"], name=name))


def test_what_it_refuses_is_said_under_its_name():
    register_backend(dataclasses.replace(BACKENDS["masked"], name="mine", refuses=lambda *_: "it has no such kernel"))
    with pytest.raises(ValueError, match="'mine' cannot run here: it has no such kernel"):
        registry.pick(GazeConfig(backend="mine"), CPU, torch.float32)
    with pytest.raises(ValueError, match="did you mean 'mine'"):
        registry.pick(GazeConfig(backend="mime"), CPU, torch.float32)


def test_decoding_is_what_the_backend_declares():
    """Without a declaration as every other backend; with one it gets the step's context, and attends."""
    q, usual = step("q_head")
    asked = []

    @dataclass
    class Halved:
        usual: DecodingStep

        def attend(self, *args):
            return self.usual.attend(*args) / 2

    def decode(ctx: GazeContext) -> Halved:
        asked.append(ctx)
        return Halved(DecodingStep.of(ctx))

    register_backend(Backend("plain", BACKENDS["masked"].prepare))
    register_backend(Backend("halved", BACKENDS["masked"].prepare, decode=decode))
    want = usual.prepared.attend(q, None, None, usual, 0, SCALING)
    for name, share in (("plain", 1.0), ("halved", 0.5), ("auto", 1.0)):
        ctx = dataclasses.replace(usual, config=usual.config.override(backend=name))
        assert torch.equal(attend(q, q, q, prepare(ctx, CPU, q.dtype), layer=0, scaling=SCALING), want * share)
    assert len(asked) == 1 and asked[0].is_step
    assert BACKENDS["triton"].decode == TritonStep.of
    assert all(b.decode == DecodingStep.of for name, b in BACKENDS.items() if name != "triton")


def test_a_copy_of_a_context_is_prepared_anew():
    ctx = prepare(context(reference(0)[1], GazeConfig()), CPU, torch.float32)
    assert ctx.prepared.backend.name == "masked"
    assert dataclasses.replace(ctx).prepared is None and ctx.of_queries(ctx.layout.index[:, :1]).prepared is None
