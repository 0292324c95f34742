"""One decoding step: every way equals the reference and the oracle's selection, and reads nothing that nobody chose."""

import pytest
import torch

from cambrian_gaze.attention import GazeContext, GazeRecorder
from cambrian_gaze.attention.decode import cpu as decode_cpu
from cambrian_gaze.gaze.config import RegionBudget
from cambrian_gaze.gaze.layout import VISUAL
from tests.attention._decode import GRANULARITY, GROUPS, decode, moved, reference, step


@GRANULARITY
@pytest.mark.parametrize("heads", [2, 8, 14])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize("options", [{}, {"descriptor": "minmax"}, {"descriptor": "oracle"}, {"dense_layers": (0,)}])
def test_equals_the_reference(granularity, heads, dtype, tolerance, options, way):
    """Outputs, selections and counts, of rows of unequal length."""
    q, ctx = step(granularity, heads, dtype, **options)
    want, regions, visual = reference(q, ctx)
    ctx.recorder = GazeRecorder()
    got = decode(q, ctx)
    assert got.dtype == dtype and got.isfinite().all()
    assert torch.allclose(got, want, rtol=tolerance, atol=tolerance)
    assert torch.equal(ctx.recorder.layers[0].visual, visual)
    if not options.get("dense_layers"):
        assert torch.equal(ctx.recorder.layers[0].regions, regions[:, :, -1])


@GRANULARITY
@pytest.mark.parametrize("is_reference", [True, False])
def test_pages_that_nobody_chose_are_not_read(granularity, is_reference, way, monkeypatch):
    """Ragged rows as well, in which some have fewer regions than K."""
    monkeypatch.setattr(decode_cpu, "READ_ALL_FROM", 2.0)
    q, ctx = step(granularity, image=RegionBudget((1, 2, 2), top_k=5))
    want, regions, _ = reference(q, ctx)
    pages = ctx.cache.layers[0]
    for b in range(2):  # the third row has no page to choose
        for g in range(GROUPS):
            chosen = regions[b].view(GROUPS, -1)[g]
            unread = torch.ones(pages.page_keys.shape[2], dtype=torch.bool)
            unread[chosen[chosen >= 0]] = False
            pages.page_keys[b, g, unread] = pages.page_values[b, g, unread] = torch.nan
    got = reference(q, ctx)[0] if is_reference else decode(q, ctx)
    assert torch.allclose(got, want, atol=2e-6)


@GRANULARITY
def test_ties_go_to_the_lowest_region(granularity, way):
    q, ctx = step(granularity)
    pages = ctx.cache.layers[0]
    pages.page_keys[:] = 1.0
    pages.descriptors[:] = 0.0
    pages.descriptors[:, :, 1::2] = -0.0
    ctx.recorder = GazeRecorder()
    decode(q, ctx)
    assert (ctx.recorder.layers[0].regions[:2] == torch.tensor([0, 1])).all()
    assert (ctx.recorder.layers[0].regions[2] == -1).all()


@GRANULARITY
def test_keeping_every_region_needs_no_scores(granularity, way, monkeypatch):
    q, ctx = step(granularity, image=RegionBudget((1, 2, 2), keep_ratio=1.0))
    want, *_ = reference(q, ctx)
    monkeypatch.setattr(GazeContext, "choose", lambda *args: pytest.fail("nothing to choose"))
    assert torch.allclose(decode(q, ctx), want, atol=2e-6)


@GRANULARITY
def test_gradients_pass_through_a_step(granularity):
    q, ctx = step(granularity, dtype=torch.float64)
    want = decode(q, ctx)
    q.requires_grad_()
    out = decode(q, ctx)
    assert torch.allclose(out, want, atol=1e-12)
    (grad,) = torch.autograd.grad(out.sum(), q)
    assert grad.isfinite().all() and grad.abs().max() > 0


@GRANULARITY
@pytest.mark.parametrize("routes", [True, False])
def test_a_step_compiles_to_one_graph(granularity, routes):
    """No graph break and no look at the data: what CUDA graphs need as well."""
    q, ctx = step(granularity, dense_layers=() if routes else (0,))
    want = decode(q, ctx)
    compiled = torch.compile(lambda q: decode(q, ctx), backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(q), want, atol=2e-6)
    assert torch.allclose(compiled(2 * q), decode(2 * q, ctx), atol=2e-6)


@GRANULARITY
@pytest.mark.parametrize("budget", [{"top_k": 2}, {"keep_ratio": 0.5}, {"keep_ratio": 1.0}], ids=str)
def test_a_step_off_the_cpu_does_not_look_at_the_data(granularity, budget):
    """Tensors without data refuse what would wait for a device: all of `prepare` and `attend` is free of it."""
    q, ctx = step(granularity, image=RegionBudget((1, 2, 2), **budget))
    given, ctx = moved(q, ctx, "meta")
    assert decode(given, ctx).shape == q.shape


@pytest.mark.gpu
@GRANULARITY
@pytest.mark.parametrize("backend", ["auto", "triton"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_a_step_replays_as_a_cuda_graph(granularity, backend, dtype, tolerance):
    q, ctx = step(granularity, dtype=dtype, backend=backend)
    want = [reference(x, ctx)[0] for x in (q, 2 * q)]
    given, ctx = moved(q, ctx, "cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        decode(given, ctx)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = decode(given, ctx)
    for x, expected in zip((q, 2 * q), want, strict=True):
        given.copy_(x)
        graph.replay()
        assert torch.allclose(out.cpu(), expected, rtol=tolerance, atol=tolerance)


@GRANULARITY
def test_what_is_attended_falls_with_k_alone(granularity, way):
    """Twice the images, the same K: as many visual entries."""
    counts = []
    for images in (2, 4):
        row = [("text", (1,)), *[("image", (1, 8, 8))] * images, ("text", (3,))]
        q, ctx = step(granularity, rows=[row], image=RegionBudget((1, 2, 2), top_k=3))
        ctx.recorder = GazeRecorder()
        decode(q, ctx)
        counts.append(ctx.recorder.layers[0].visual)
        assert (ctx.cache.page_layout.role == VISUAL).sum() == images * 64
    assert (counts[0] == 12).all() and torch.equal(*counts)
