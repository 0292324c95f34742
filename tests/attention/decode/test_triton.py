"""The decoding step in Triton against plain torch, in the interpreter (fp32, on a CPU); on a GPU: `test_decode.py`."""

import pytest
import torch

from cambrian_gaze.attention import GazeRecorder
from cambrian_gaze.attention.decode import step as decoding
from cambrian_gaze.attention.decode.step import DecodingStep
from cambrian_gaze.attention.decode.triton import TritonStep, kernels
from cambrian_gaze.gaze.config import RegionBudget
from cambrian_gaze.gaze.routing import as_mask
from tests.attention._decode import DIM, GRANULARITY, GROUPS, decode, reference, step
from tests.attention._interpreter import compiled, interpreter, run_interpreted, scalars  # noqa: F401


@compiled
def test_in_the_interpreter():
    run_interpreted(__file__)


def in_triton(q, ctx, monkeypatch):
    """A step through the kernels, and no other way."""
    for way in ("elsewhere", "_in_buffers", "_in_compiled_code"):
        monkeypatch.setattr(DecodingStep, way, lambda *args: pytest.fail("another way was taken"))
    monkeypatch.setattr(decoding, "on_cpu", lambda q, pages: False)
    return decode(q, ctx)


@interpreter
@GRANULARITY
@pytest.mark.parametrize("heads", [2, 8, 14])
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("options", [{}, {"descriptor": "minmax"}, {"dense_layers": (0,)}])
def test_equals_the_reference(granularity, heads, recorded, options, monkeypatch):
    """Ragged rows: some with fewer regions than K, one with none."""
    q, ctx = step(granularity, heads, backend="triton", **options)
    want, regions, visual = reference(q, ctx)
    ctx.recorder = GazeRecorder() if recorded else None
    assert torch.allclose(in_triton(q, ctx, monkeypatch), want, rtol=2e-6, atol=2e-6)
    if recorded:
        assert torch.equal(ctx.recorder.layers[0].visual, visual)
        if regions is not None:
            assert torch.equal(ctx.recorder.layers[0].regions, regions[:, :, -1])


@interpreter
@GRANULARITY
@pytest.mark.parametrize("top_k", [1, 3, 5, 40])
@pytest.mark.parametrize("two_pools", [False, True])
def test_chooses_what_torch_chooses(granularity, top_k, two_pools):
    rows = [
        [("text", (2,)), ("image", (1, 7, 6)), ("video", (3, 4, 4)), ("image", (1, 6, 6)), ("text", (2,))],
        [("text", (1,)), ("video", (2, 4, 4)), ("text", (4,))],
        [("text", (5,))],
    ]
    budgets = {"image": RegionBudget((1, 2, 2), top_k=top_k)}
    if two_pools:
        budgets["video"] = RegionBudget((2, 2, 2), top_k=2)
    q, ctx = step(granularity, rows=rows, backend="triton", **budgets)
    pages, most = ctx.cache.layers[0], sum(pool.most for pool in ctx.pools)
    groups = q.reshape(3, GROUPS, -1, DIM).contiguous()
    pages.descriptors[0, :, 3] = pages.descriptors[0, :, 1]  # a tie
    pages.descriptors[1] = 0.0
    pages.descriptors[1, :, 1::2] = -0.0
    regions = ctx.choose(0, q, None, None, 0.25)
    selections, (batch, num_regions) = regions.shape[1] // GROUPS, ctx.layout.region_size.shape
    wanted = kernels().choose(groups, pages.descriptors, ctx.prepared.limits, most, selections)
    again = kernels().pages_of(regions, groups.shape[:3], num_regions, q.device)
    mask = as_mask(regions, num_regions).view(batch * GROUPS, selections, num_regions)
    for item, count in enumerate(wanted.count):
        assert wanted.listed[item, :count].tolist() == mask[item].any(0).nonzero().flatten().tolist()
        for page, mark in zip(wanted.listed[item, :count], wanted.marks[item, :count], strict=True):
            heads = range(groups.shape[2])
            assert [bool(mark >> h & 1) for h in heads] == [bool(mask[item, h % selections, page]) for h in heads]
    assert torch.equal(wanted.count, again.count)
    there = torch.arange(wanted.listed.shape[1]) < wanted.count[:, None]
    for name in ("listed", "marks"):
        assert torch.equal(getattr(wanted, name)[there], getattr(again, name)[there])


@interpreter
@pytest.mark.parametrize("keys_at_once", [16, 64])
def test_long_caches_are_split(keys_at_once, monkeypatch):
    """Several parts of pages and of text; keys of a tile from several pages."""
    triton = kernels()
    monkeypatch.setattr(triton, "KEYS_AT_ONCE", 2 * keys_at_once)
    monkeypatch.setattr(triton, "KEYS_PER_PART", 16)
    row = [("text", (60,)), *[("image", (1, 9, 8))] * 4, ("text", (40,))]
    q, ctx = step("q_head", rows=[row, row[1:]], backend="triton", image=RegionBudget((1, 3, 3), keep_ratio=0.3))
    want, *_ = reference(q, ctx)
    assert torch.allclose(in_triton(q, ctx, monkeypatch), want, rtol=2e-6, atol=2e-6)


@interpreter
def test_pages_that_nobody_chose_are_not_read(monkeypatch):
    q, ctx = step("kv_group", backend="triton", image=RegionBudget((1, 2, 2), top_k=5))
    want, regions, _ = reference(q, ctx)
    pages = ctx.cache.layers[0]
    for b in range(3):
        for g in range(GROUPS):
            unread = torch.ones(pages.page_keys.shape[2], dtype=torch.bool)
            unread[regions[b, g, 0][regions[b, g, 0] >= 0]] = False
            pages.page_keys[b, g, unread] = pages.page_values[b, g, unread] = torch.nan
    assert torch.allclose(in_triton(q, ctx, monkeypatch), want, atol=2e-6)


@interpreter
def test_gradients_go_through_plain_torch(monkeypatch):
    q, ctx = step("q_head", backend="triton")
    q.requires_grad_()
    monkeypatch.setattr(TritonStep, "in_triton", lambda *args: pytest.fail("it has no gradients"))
    (grad,) = torch.autograd.grad(decode(q, ctx).sum(), q)
    assert grad.isfinite().all() and grad.abs().max() > 0
