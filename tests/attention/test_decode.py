"""One decoding step: the fast way equals the reference and the oracle's selection, reads nothing that nobody chose, and
keeps its buffers."""

import copy
import dataclasses

import pytest
import torch

from cambrian_gaze.attention import GazeContext, GazeRecorder, decode, decode_cpu, decode_torch
from cambrian_gaze.attention.workspace import Workspace
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.layout import VISUAL
from cambrian_gaze.gaze.visibility import regions_offered
from cambrian_gaze.models.cache import GazeCache
from tests._layouts import build

DIM, GROUPS = 16, 2
GRANULARITY = pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
ROWS = [
    [("text", (2,)), ("image", (1, 7, 6)), ("text", (3,)), ("image", (1, 6, 6)), ("text", (2,))],
    [("text", (1,)), ("image", (1, 4, 4)), ("text", (4,))],
    [("text", (5,))],
]


def step(granularity, heads=8, dtype=torch.float32, rows=ROWS, seed=0, **options):
    """(queries [B, H, 1, D], context) of a step after a ragged prefill."""
    options = {"image": RegionBudget((1, 2, 2), top_k=2)} | options
    config = GazeConfig(num_context_tokens=2, head_granularity=granularity, **options)
    layout = build([[row] for row in rows], config, left=True).layout()
    generator = torch.Generator().manual_seed(seed)
    shapes = [(len(rows), n, layout.shape[1], DIM) for n in (heads, GROUPS, GROUPS)]
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    cache = GazeCache(config)
    cut = layout.shape[1] - 1
    for part in (slice(0, cut), slice(cut, None)):
        cache.extend(layout.tokens(part))
        cache.update(k[:, :, part], v[:, :, part], 0)
    last = layout.tokens(slice(cut, None))
    ctx = GazeContext(config, last, last, regions_offered(last, config), cache, reads_cache=True, is_step=True)
    decode.prepare(ctx)
    return q[:, :, cut:], ctx


def reference(q, ctx):
    """Through `decode_torch` alone."""
    pages = ctx.cache.layers[0]
    regions = ctx.choose(0, q, pages.page_keys.flatten(2, 3), ctx.cache.page_layout.region, 0.25)
    seen = ctx.prepared["page_seen"], ctx.prepared["flat_seen"]
    grouped = q.reshape(len(q), GROUPS, -1, DIM)
    out, allowed = decode_torch.attend(grouped, pages, *seen, regions, 0.25)
    return out.view(q.shape), regions, allowed.sum(-1).view(len(q), -1)


@pytest.fixture(params=["one block", "tiny blocks"])
def blocks(request, monkeypatch):
    """Buffers of few pages too, so that KV heads and pages are cut, and each query head's pages or their union."""
    if request.param == "tiny blocks":
        monkeypatch.setattr(decode_cpu, "BLOCK_BYTES", 3 * 4 * DIM * 4)
        monkeypatch.setattr(decode_cpu, "SCORES_AT_ONCE", 1)
        monkeypatch.setattr(decode_cpu, "UNION_FROM", 0)


@GRANULARITY
@pytest.mark.parametrize("heads", [2, 8, 14])
@pytest.mark.parametrize("read_all_from", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 3e-2)]
)
def test_equals_the_reference(granularity, heads, read_all_from, dtype, tolerance, blocks, monkeypatch):
    """All ways to read: in place, per head, and the union of a group; counts too."""
    monkeypatch.setattr(decode_cpu, "READ_ALL_FROM", read_all_from)
    q, ctx = step(granularity, heads, dtype)
    want, regions, visual = reference(q, ctx)
    ctx.recorder = GazeRecorder()
    got = decode.attend(q, ctx, 0, 0.25)
    assert got.dtype == dtype and got.isfinite().all()
    assert torch.allclose(got, want, rtol=tolerance, atol=tolerance)
    assert torch.equal(ctx.recorder.layers[0].regions, regions[:, :, -1])
    assert torch.equal(ctx.recorder.layers[0].visual, visual)


@GRANULARITY
@pytest.mark.parametrize("fuse_up_to", [0, 1 << 40])
@pytest.mark.parametrize("union_from", [0, 1 << 40])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_full_selections_that_see_all_need_no_mask(
    granularity, fuse_up_to, union_from, dtype, tolerance, blocks, monkeypatch
):
    """Rows of equal shape: nothing is padded, and every query keeps K regions."""
    for name, value in (("FUSE_UP_TO", fuse_up_to), ("UNION_FROM", union_from), ("READ_ALL_FROM", 2.0)):
        monkeypatch.setattr(decode_cpu, name, value)
    row = [("text", (2,)), ("image", (1, 6, 6)), ("text", (3,)), ("image", (1, 6, 6)), ("text", (2,))]
    q, ctx = step(granularity, dtype=dtype, rows=[row, row])
    assert ctx.prepared["masks"] == (None, None) and ctx.prepared["complete"]
    want, regions, visual = reference(q, ctx)
    fused = []
    monkeypatch.setattr(
        decode_cpu, "_attend_few", lambda *args, few=decode_cpu._attend_few: fused.append(True) or few(*args)
    )
    ctx.recorder = GazeRecorder()
    got = decode.attend(q, ctx, 0, 0.25)
    assert torch.allclose(got, want, rtol=tolerance, atol=tolerance)
    assert torch.equal(ctx.recorder.layers[0].visual, visual) and (visual == 2 * 4).all()
    assert bool(fused) == (granularity == "kv_group" and fuse_up_to > 0)


@GRANULARITY
@pytest.mark.parametrize("reference_path", [True, False])
def test_pages_that_nobody_chose_are_not_read(granularity, reference_path, blocks, monkeypatch):
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
    got = reference(q, ctx)[0] if reference_path else decode.attend(q, ctx, 0, 0.25)
    assert torch.allclose(got, want, atol=2e-6)


@GRANULARITY
def test_ties_go_to_the_lowest_region(granularity):
    q, ctx = step(granularity)
    pages = ctx.cache.layers[0]
    pages.page_keys[:] = 1.0
    pages.descriptors[:] = 0.0
    pages.descriptors[:, :, 1::2] = -0.0
    ctx.recorder = GazeRecorder()
    decode.attend(q, ctx, 0, 0.25)
    assert (ctx.recorder.layers[0].regions[:2] == torch.tensor([0, 1])).all()
    assert (ctx.recorder.layers[0].regions[2] == -1).all()


@GRANULARITY
def test_keeping_every_region_needs_no_scores(granularity, monkeypatch):
    q, ctx = step(granularity, image=RegionBudget((1, 2, 2), keep_ratio=1.0))
    want, *_ = reference(q, ctx)
    monkeypatch.setattr(GazeContext, "choose", lambda *args: pytest.fail("nothing to choose"))
    assert torch.allclose(decode.attend(q, ctx, 0, 0.25), want, atol=2e-6)


@GRANULARITY
def test_buffers_are_kept_and_shared(granularity, monkeypatch):
    """The same memory at the next step; what a step returned stays as it was; a copied cache has its own."""
    monkeypatch.setattr(decode_cpu, "READ_ALL_FROM", 2.0)
    q, ctx = step(granularity)
    first = decode.attend(q, ctx, 0, 0.25)
    kept, held = first.clone(), ctx.cache.workspace.nbytes
    second = decode.attend(-q, ctx, 0, 0.25)
    assert torch.equal(first, kept) and not torch.equal(first, second)
    assert 0 < ctx.cache.workspace.nbytes <= 2 * held
    assert copy.deepcopy(ctx.cache).workspace.nbytes == 0
    other_order = torch.tensor([1, 0, 2])
    ctx.cache.reorder_cache(other_order)
    moved = dataclasses.replace(ctx, layout=ctx.layout.rows(other_order), prepared={})
    moved.offered = regions_offered(moved.layout, moved.config)
    decode.prepare(moved)
    assert torch.allclose(decode.attend(q[other_order], moved, 0, 0.25), first[other_order], atol=2e-6)


def test_a_buffer_grows_and_is_reused():
    workspace = Workspace()
    take = lambda *shape: workspace.take("x", shape, torch.float32)  # noqa: E731
    first = take(10, 10)
    assert take(50).data_ptr() == take(5, 5).data_ptr() == first.data_ptr()
    assert take(1000).shape == (1000,) and workspace.nbytes == 5000


@GRANULARITY
def test_gradients_pass_through_a_step(granularity):
    q, ctx = step(granularity, dtype=torch.float64)
    want = decode.attend(q, ctx, 0, 0.25)
    q.requires_grad_()
    out = decode.attend(q, ctx, 0, 0.25)
    assert torch.allclose(out, want, atol=1e-12)
    (grad,) = torch.autograd.grad(out.sum(), q)
    assert grad.isfinite().all() and grad.abs().max() > 0


@GRANULARITY
@pytest.mark.parametrize("routes", [True, False])
def test_a_step_compiles_to_one_graph(granularity, routes):
    """No graph break and no look at the data: what CUDA graphs need as well."""
    q, ctx = step(granularity, dense_layers=() if routes else (0,))
    want = decode.attend(q, ctx, 0, 0.25)
    compiled = torch.compile(lambda q: decode.attend(q, ctx, 0, 0.25), backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(q), want, atol=2e-6)
    assert torch.allclose(compiled(2 * q), decode.attend(2 * q, ctx, 0, 0.25), atol=2e-6)


def move(ctx, device):
    """A step's context and cache, on another device."""
    layer = ctx.cache.layers[0]
    for store in layer.stores.values():
        store.data = store.data.to(device)
    for name in ("descriptors", "_flat_keys", "_flat_values"):
        setattr(layer, name, getattr(layer, name).to(device))
    for name in ("page_layout", "flat_layout"):
        setattr(ctx.cache, name, getattr(ctx.cache, name).to(torch.device(device)))
    ctx.layout = ctx.key_layout = ctx.layout.to(torch.device(device))
    ctx.offered, ctx.prepared = ctx.offered.to(device), {}
    decode.prepare(ctx)


@GRANULARITY
@pytest.mark.parametrize("budget", [{"top_k": 2}, {"keep_ratio": 0.5}, {"keep_ratio": 1.0}], ids=str)
def test_a_step_off_the_cpu_does_not_look_at_the_data(granularity, budget):
    """Tensors without data refuse what would wait for a device: all of `prepare` and `attend` is free of it."""
    q, ctx = step(granularity, image=RegionBudget((1, 2, 2), **budget))
    move(ctx, "meta")
    assert decode.attend(q.to("meta"), ctx, 0, 0.25).shape == q.shape


@pytest.mark.gpu
@GRANULARITY
def test_a_step_replays_as_a_cuda_graph(granularity):
    q, ctx = step(granularity)
    want = [decode.attend(x, ctx, 0, 0.25) for x in (q, 2 * q)]
    move(ctx, "cuda")
    given = q.cuda()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        decode.attend(given, ctx, 0, 0.25)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = decode.attend(given, ctx, 0, 0.25)
    for x, expected in zip((q, 2 * q), want, strict=True):
        given.copy_(x)
        graph.replay()
        assert torch.allclose(out.cpu(), expected, atol=1e-4)


@GRANULARITY
def test_what_is_attended_falls_with_k_alone(granularity):
    """Twice the images, the same K: as many visual entries."""
    counts = []
    for images in (2, 4):
        row = [("text", (1,)), *[("image", (1, 8, 8))] * images, ("text", (3,))]
        q, ctx = step(granularity, rows=[row], image=RegionBudget((1, 2, 2), top_k=3))
        ctx.recorder = GazeRecorder()
        decode.attend(q, ctx, 0, 0.25)
        counts.append(ctx.recorder.layers[0].visual)
        assert (ctx.cache.page_layout.role == VISUAL).sum() == images * 64
    assert (counts[0] == 12).all() and torch.equal(*counts)
