"""The decoding step in plain torch: all ways to read pages equal the reference, and buffers are kept."""

import copy
import dataclasses

import pytest
import torch

from cambrian_gaze.attention import GazeRecorder
from cambrian_gaze.attention.decode import cpu as decode_cpu
from cambrian_gaze.attention.decode import native as decode_native
from cambrian_gaze.attention.decode.workspace import Workspace
from tests.attention._decode import DIM, GRANULARITY, decode, prepared, reference, step


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """As where nothing is compiled."""
    monkeypatch.setattr(decode_native, "takes", lambda grouped: False)


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
    got = decode(q, ctx)
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
    assert ctx.prepared.masks == (None, None) and ctx.prepared.complete
    want, regions, visual = reference(q, ctx)
    fused = []
    monkeypatch.setattr(
        decode_cpu, "_attend_few", lambda *args, few=decode_cpu._attend_few: fused.append(True) or few(*args)
    )
    ctx.recorder = GazeRecorder()
    got = decode(q, ctx)
    assert torch.allclose(got, want, rtol=tolerance, atol=tolerance)
    assert torch.equal(ctx.recorder.layers[0].visual, visual) and (visual == 2 * 4).all()
    assert bool(fused) == (granularity == "kv_group" and fuse_up_to > 0)


@GRANULARITY
def test_buffers_are_kept_and_shared(granularity, monkeypatch):
    """The same memory at the next step; what a step returned stays as it was; a copied cache has its own."""
    monkeypatch.setattr(decode_cpu, "READ_ALL_FROM", 2.0)
    q, ctx = step(granularity)
    first = decode(q, ctx)
    kept, held = first.clone(), ctx.cache.workspace.nbytes
    second = decode(-q, ctx)
    assert torch.equal(first, kept) and not torch.equal(first, second)
    assert 0 < ctx.cache.workspace.nbytes <= 2 * held
    assert copy.deepcopy(ctx.cache).workspace.nbytes == 0
    other_order = torch.tensor([1, 0, 2])
    ctx.cache.reorder_cache(other_order)
    moved = prepared(dataclasses.replace(ctx, layout=ctx.layout.rows(other_order)))
    assert torch.allclose(decode(q[other_order], moved), first[other_order], atol=2e-6)


def test_a_buffer_grows_and_is_reused():
    workspace = Workspace()
    take = lambda *shape: workspace.take("x", shape, torch.float32)  # noqa: E731
    first = take(10, 10)
    assert take(50).data_ptr() == take(5, 5).data_ptr() == first.data_ptr()
    assert take(1000).shape == (1000,) and workspace.nbytes == 5000
