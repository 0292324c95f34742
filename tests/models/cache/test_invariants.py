"""The gaze cache: whatever way tokens come in, the same outputs and descriptors as all at once."""

import pytest
import torch

from cambrian_gaze.attention import GazeContext, attend, prepare
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.descriptors import describe
from cambrian_gaze.gaze.oracle import oracle_attention
from tests._layouts import Case, build, draw_tensors
from tests.models._streams import (
    DIM,
    SCALING,
    TOLERANCE,
    Stream,
    at_once,
    cast,
    cuts_of_kind,
    drawn,
    random_rotary,
    real_places,
    rotate,
)


@pytest.mark.parametrize("kind", ["all at once", "one by one", "prefill, then steps", "mixture"])
@pytest.mark.parametrize(
    ("seed", "dtype"), [(n, torch.float64) for n in range(24)] + [(n, torch.float32) for n in range(0, 24, 5)]
)
def test_any_mixture_of_prefill_and_steps(seed, kind, dtype):
    case, layout, layers = drawn(seed)
    layers = cast(layers, dtype)
    want = at_once(layers, layout, case.config)
    got = Stream(case.config).feed_pieces(layers, layout, cuts_of_kind(kind, layout, seed))
    where = real_places(layout, case.heads)
    for a, b in zip(got, want, strict=True):
        assert a.isfinite().all(), "padding included"
        assert torch.allclose(a[where], b[where], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("seed", range(0, 24, 3))
def test_steps_equal_the_oracle(seed):
    case, layout, layers = drawn(seed, dense_layers=(1,) if seed % 4 else ())
    layers = cast(layers, torch.float64)
    got = Stream(case.config).feed_pieces(layers, layout, range(1, layout.shape[1]))
    where = real_places(layout, case.heads)
    for number, (qkv, out) in enumerate(zip(layers, got, strict=True)):
        want, _ = oracle_attention(*qkv, layout, case.config, scaling=SCALING, layer=number)
        assert torch.allclose(out[where], want[where], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("descriptor", ["mean", "max", "minmax"])
@pytest.mark.parametrize("kind", ["none", "all at once", "one by one", "mixture"])
def test_descriptors_of_keys_before_the_rotary_embedding(descriptor, kind):
    config = GazeConfig(
        image=RegionBudget((1, 2, 2), top_k=2), num_context_tokens=1, descriptor=descriptor, descriptor_keys="pre_rope"
    )
    rows = [
        [("text", (1,)), ("image", (1, 4, 4)), ("text", (4,))],
        [("image", (1, 2, 4)), ("image", (1, 4, 4)), ("text", (3,))],
    ]
    case = Case(build([[row] for row in rows], config, left=True), 4, 2, 7)
    layout = case.batch.layout()
    bare_q, bare_k, v = draw_tensors(case, dim=DIM, scaling=SCALING)
    rotary = random_rotary(layout, 7)
    q, k = rotate(bare_q, rotary), rotate(bare_k, rotary)
    options = dict(scaling=SCALING, routing=(bare_q, bare_k))
    want, selected = oracle_attention(q, k, v, layout, case.config, **options)
    _, after = oracle_attention(q, k, v, layout, case.config, scaling=SCALING)
    assert selected != after, "the choice of keys matters here"
    if kind == "none":
        ctx = GazeContext(case.config, layout, layout, rotary=rotary)
        got = attend(q, k, v, prepare(ctx, q.device, q.dtype), layer=0, scaling=SCALING)
    else:
        (got,) = Stream(case.config).feed_pieces([(q, k, v)], layout, cuts_of_kind(kind, layout, 7), rotary)
    where = real_places(layout, case.heads)
    assert torch.allclose(got[where], want[where], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("descriptor", ["mean", "max", "minmax"])
@pytest.mark.parametrize("kind", ["one frame at a time", "one by one", "mixture"])
@pytest.mark.parametrize(
    ("size", "dtype"), [((1, 2, 2), torch.float32), ((2, 2, 2), torch.float32), ((3, 3, 2), torch.float64)]
)
def test_descriptors_updated_and_at_once(descriptor, kind, size, dtype):
    """Frames of a video that come one by one, with temporal regions too."""
    config = GazeConfig(image=RegionBudget(size, top_k=2), num_context_tokens=2, descriptor=descriptor)
    rows = [
        [("text", (1,)), ("video", (5, 3, 4)), ("text", (2,))],
        [("text", (4,)), ("image", (1, 3, 4)), ("text", (1,)), ("video", (3, 3, 4)), ("text", (1,))],
    ]
    layout = build([[row] for row in rows], config, left=True).layout()
    generator = torch.Generator().manual_seed(0)
    qkv = tuple(torch.randn(2, n, layout.shape[1], DIM, generator=generator, dtype=dtype) for n in (4, 2, 2))
    cuts = cuts_of_kind(kind, layout, 0)
    if kind == "one frame at a time":
        cuts = [j for j in range(1, layout.shape[1]) if layout.unit[0, j] != layout.unit[0, j - 1]]
    stream = Stream(config)
    stream.feed_pieces([qkv], layout, cuts)
    got = stream.cache.layers[0].descriptors
    want = describe(qkv[1], layout.region, layout.num_regions, descriptor)
    assert got.dtype == want.dtype
    used = (layout.region_size > 0)[:, None].expand(got.shape[:3])
    assert torch.allclose(got[used], want[used], rtol=1e-6, atol=1e-6)
    if descriptor != "mean":
        assert torch.equal(got[used], want[used])
