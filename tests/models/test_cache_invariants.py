"""The gaze cache: whatever way tokens come in, the same outputs, descriptors and counts as all at once."""

import dataclasses
import random
from functools import cache

import pytest
import torch
from torch import Tensor

from cambrian_gaze.attention import GazeContext, GazeRecorder, attend, prepare
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.cost import attended_visual
from cambrian_gaze.gaze.descriptors import describe
from cambrian_gaze.gaze.layout import EMPTY_SLOT, PAD, REGION_FIELDS, TEXT, VISUAL, TokenLayout
from cambrian_gaze.gaze.oracle import oracle_attention
from cambrian_gaze.gaze.visibility import regions_offered
from cambrian_gaze.models.cache import GazeCache
from tests._layouts import Case, build, draw_case, draw_tensors, free_cuts, items_between

DIM = 8
SCALING = 0.4
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5}  # decoding takes its softmax in fp32


def table_so_far(layout: TokenLayout, stop: int) -> TokenLayout:
    """The layout with a region table that knows nothing of units after token `stop`, as `derive_layout` leaves it."""
    index = layout.index.masked_fill(layout.region < 0, EMPTY_SLOT)
    first = torch.full_like(layout.region_size, EMPTY_SLOT)
    if layout.num_regions:
        first.scatter_reduce_(1, layout.region.clamp(min=0), index, "amin")
    begun = first < stop
    width = int(begun.sum(1).max()) if layout.num_regions else 0
    empty = {"region_size": 0, "region_end": EMPTY_SLOT, "region_modality": 0}
    table = {n: getattr(layout, n).masked_fill(~begun, empty.get(n, -1))[:, :width] for n in REGION_FIELDS}
    return dataclasses.replace(layout, **table)


class Stream:
    """A decoder's attention layers that tokens come to in pieces."""

    def __init__(self, config: GazeConfig, cache: GazeCache | None = None):
        self.config = config
        self.cache = GazeCache(config) if cache is None else cache  # an empty cache is false
        self.recorder: GazeRecorder | None = None

    def feed(self, layers: list[tuple[Tensor, Tensor, Tensor]], part: TokenLayout, rotary=None) -> list[Tensor]:
        """The outputs [B, H, S, D] of each layer for new tokens, whose (q, k, v) of each layer are given."""
        cache, new = self.cache, part.shape[1]
        reads = cache.length > 0
        cache.extend(part, rotary)
        is_step = reads and new == 1 and cache.only_text_came
        self.recorder = GazeRecorder()
        ctx = GazeContext(
            config=self.config,
            layout=part,
            key_layout=cache.key_layout() if reads and not is_step else part,
            offered=regions_offered(part, self.config),
            cache=cache,
            reads_cache=reads,
            is_step=is_step,
            rotary=rotary,
            recorder=self.recorder,
        )
        prepare(ctx, layers[0][0].device, layers[0][0].dtype)
        outputs = []
        for number, (q, k, v) in enumerate(layers):
            k, v = cache.update(k, v, number)
            outputs.append(attend(q, k, v, ctx, layer=number, scaling=SCALING))
        return outputs

    def feed_pieces(self, layers, layout: TokenLayout, cuts, rotary=None) -> list[Tensor]:
        """All tokens of a layout, cut at `cuts`; outputs joined again."""
        bounds = [0, *cuts, layout.shape[1]]
        pieces = []
        for start, stop in zip(bounds, bounds[1:], strict=False):
            part = table_so_far(layout, stop).tokens(slice(start, stop))
            turn = None if rotary is None else tuple(x[:, start:stop] for x in rotary)
            pieces.append(self.feed([tuple(x[:, :, start:stop] for x in qkv) for qkv in layers], part, turn))
        return [torch.cat([piece[n] for piece in pieces], dim=2) for n in range(len(layers))]


def at_once(layers, layout, config) -> list[Tensor]:
    """Without a cache."""
    ctx = GazeContext(config=config, layout=layout, key_layout=layout, offered=regions_offered(layout, config))
    prepare(ctx, layers[0][0].device, layers[0][0].dtype)
    return [attend(*qkv, ctx, layer=n, scaling=SCALING) for n, qkv in enumerate(layers)]


@cache
def drawn(seed: int, **options):
    """(case, layout, (q, k, v) in fp32 of two layers) of `draw_case(seed)`."""
    case = draw_case(seed, **options)
    cases = (case, dataclasses.replace(case, seed=seed + 500))
    layers = [draw_tensors(c, dim=DIM, scaling=SCALING, dtype=torch.float32) for c in cases]
    return case, case.batch.layout(), layers


def cast(layers, dtype):
    return [tuple(x.to(dtype) for x in qkv) for qkv in layers]


def real_places(layout, heads):
    return (layout.role != PAD)[:, None].expand(-1, heads, -1)


def cuts_of_kind(kind: str, layout: TokenLayout, seed: int) -> list[int]:
    length = layout.shape[1]
    rng = random.Random(seed)
    if kind == "all at once":
        return []
    if kind == "one by one":
        return list(range(1, length))
    if kind == "prefill, then steps":
        return list(range(rng.randint(1, length - 1), length))
    return sorted(rng.sample(range(1, length), k=min(length - 1, rng.randint(1, 12))))


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


def random_rotary(layout, seed):
    """cos and sin [B, S, D] as transformers makes them: two equal halves."""
    angle = torch.randn(*layout.shape, DIM // 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x, rotary):
    cos, sin = (r[:, None] for r in rotary)
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


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
    options = dict(scaling=SCALING, routing_q=bare_q, routing_k=bare_k)
    want, selected = oracle_attention(q, k, v, layout, case.config, **options)
    _, after = oracle_attention(q, k, v, layout, case.config, scaling=SCALING)
    assert selected != after, "the choice of keys matters here"
    if kind == "none":
        ctx = GazeContext(case.config, layout, layout, regions_offered(layout, case.config), rotary=rotary)
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


def test_what_the_cache_holds():
    """Each token once, in its place: pages by region and slot, the rest in columns."""
    case, layout, layers = drawn(8)
    ((q, k, v), _) = layers
    stream = Stream(case.config)
    stream.feed_pieces([(q, k, v)], layout, cuts_of_kind("mixture", layout, 0))
    cache, pages = stream.cache, stream.cache.layers[0]
    assert cache.get_seq_length() == layout.shape[1]
    keys = torch.cat([pages.page_keys.flatten(2, 3), pages.flat_keys], 2)
    values = torch.cat([pages.page_values.flatten(2, 3), pages.flat_values], 2)
    held = cache.key_layout()
    assert keys.shape[2] == held.shape[1] == values.shape[2]
    for b in range(layout.shape[0]):
        tokens = {int(i): j for j, i in enumerate(held.index[b]) if held.role[b, j] != PAD}
        assert sorted(tokens) == layout.index[b][layout.role[b] != PAD].tolist()
        for i, j in tokens.items():
            assert torch.equal(keys[b, :, j], k[b, :, i]) and torch.equal(values[b, :, j], v[b, :, i])
            for name in ("role", "sample", "unit", "region", "slot", "position_ids"):
                assert getattr(held, name)[b, j] == getattr(layout, name)[b, i], name


@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
@pytest.mark.parametrize("descriptor", ["mean", "oracle"])
def test_rows_move_with_their_layout(granularity, descriptor):
    """Beam search repeats, reorders and selects rows; the next steps are those of the rows' new owners."""
    config = GazeConfig(
        image=RegionBudget((1, 2, 2), top_k=2),
        num_context_tokens=2,
        head_granularity=granularity,
        descriptor=descriptor,
    )
    rows = [
        [("text", (1,)), ("image", (1, 4, 4)), ("text", (6,))],
        [("text", (2,)), ("image", (1, 2, 4)), ("text", (1,)), ("image", (1, 3, 2)), ("text", (6,))],
    ]
    layout = build([[row] for row in rows], config, left=True).layout()
    generator = torch.Generator().manual_seed(0)
    shape = (4, layout.shape[1], DIM)
    qkv = [torch.randn(2, n, *shape[1:], generator=generator, dtype=torch.float64) for n in (4, 2, 2)]
    prompt = layout.shape[1] - 5
    stream = Stream(config)
    stream.feed([tuple(x[:, :, :prompt] for x in qkv)], table_so_far(layout, prompt).tokens(slice(0, prompt)))

    owner = torch.arange(2)
    moves = [
        ("batch_repeat_interleave", 3, lambda x: x.repeat_interleave(3, 0)),
        ("reorder_cache", torch.tensor([1, 0, 2, 5, 3, 3]), lambda x: x[torch.tensor([1, 0, 2, 5, 3, 3])]),
        ("batch_select_indices", torch.tensor([0, 3, 4]), lambda x: x[torch.tensor([0, 3, 4])]),
        ("batch_select_indices", torch.tensor([True, False, True]), lambda x: x[torch.tensor([True, False, True])]),
    ]
    history = [tuple(x[:, :, :prompt] for x in qkv)]
    for step, (name, argument, move) in enumerate(moves):
        getattr(stream.cache, name)(argument)
        owner = move(owner)
        history = [tuple(move(x) for x in h) for h in history]
        at = prompt + step
        new = tuple(torch.randn(len(owner), n, 1, DIM, generator=generator, dtype=torch.float64) for n in (4, 2, 2))
        history.append(new)
        part = table_so_far(layout, at + 1).rows(owner)
        (got,) = stream.feed([new], part.tokens(slice(at, at + 1)))
        whole = tuple(torch.cat([h[n] for h in history], 2) for n in range(3))
        (want,) = at_once([whole], part.tokens(slice(0, at + 1)), config)
        assert torch.allclose(got, want[:, :, -1:], rtol=1e-6, atol=1e-6), name


@pytest.mark.parametrize("drop", [1, 2, 3, 4])
@pytest.mark.parametrize("negative", [False, True])
def test_cropped_tokens_are_forgotten(drop, negative):
    case = draw_case(6, video=None)
    rows = [
        [("text", (2,)), ("image", (1, 4, 4)), ("text", (5,))],
        [("text", (9,))],
        [("text", (1,)), ("image", (1, 2, 2)), ("text", (6,))],
    ]
    config = case.config
    batch = build([[row] for row in rows], config, left=True)
    layout = batch.layout()
    length = layout.shape[1]
    generator = torch.Generator().manual_seed(0)
    heads = (case.heads, case.kv_heads, case.kv_heads)
    old, new = (
        tuple(torch.randn(3, n, length, DIM, generator=generator, dtype=torch.float64) for n in heads) for _ in range(2)
    )
    stream = Stream(config)
    stream.feed_pieces([old], layout, [length - 3, length - 2])
    keep = length - drop
    stream.cache.crop(-drop if negative else keep)
    assert stream.cache.get_seq_length() == keep
    mixed = tuple(torch.cat([a[:, :, :keep], b[:, :, keep:]], 2) for a, b in zip(old, new, strict=True))
    (want,) = at_once([mixed], layout, config)
    past = stream.cache.last
    assert past.index[0, -1] == keep - 1
    assert torch.equal(past.next_position, layout.position_ids[:, keep])
    parts = []
    for at in range(keep, length):
        parts += stream.feed([tuple(x[:, :, at : at + 1] for x in mixed)], layout.tokens(slice(at, at + 1)))
    assert torch.allclose(torch.cat(parts, 2), want[:, :, keep:], rtol=1e-6, atol=1e-6)


def test_an_image_is_not_cropped_in_half():
    config = GazeConfig(image=RegionBudget((1, 2, 2), top_k=1), num_context_tokens=1)
    layout = build([[[("text", (1,)), ("image", (1, 2, 2)), ("text", (2,))]]], config).layout()
    qkv = tuple(torch.randn(1, 1, 8, DIM) for _ in range(3))
    stream = Stream(config)
    stream.feed([qkv], layout)
    with pytest.raises(ValueError, match="token 6"):
        stream.cache.crop(4)


def test_reset_forgets_everything():
    case, layout, layers = drawn(4)
    stream = Stream(case.config)
    first = stream.feed_pieces(layers, layout, [])
    stream.cache.reset()
    assert stream.cache.get_seq_length() == 0
    again = stream.feed_pieces(layers, layout, [])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
@pytest.mark.parametrize(
    ("grid", "size", "k"), [((1, 24, 24), (1, 6, 6), 2), ((1, 12, 12), (1, 3, 3), 4), ((8, 6, 6), (1, 3, 3), 5)]
)
def test_a_step_attends_to_what_the_cost_model_says(grid, size, k, granularity):
    config = GazeConfig(image=RegionBudget(size, top_k=k), head_granularity=granularity)
    kind = "video" if grid[0] > 1 else "image"
    layout = build([[[("text", (2,)), (kind, grid), ("text", (3,))]]], config).layout()
    length = layout.shape[1]
    generator = torch.Generator().manual_seed(0)
    qkv = tuple(torch.randn(1, n, length, DIM, generator=generator) for n in (4, 2, 2))
    stream = Stream(config)
    stream.feed_pieces([qkv], layout, [length - 2, length - 1])
    cost, gaze = attended_visual([grid], config), stream.recorder.layers[0]
    assert gaze.visual.tolist() == [[cost.selected] * 4] and gaze.context.tolist() == [[cost.context] * 4]
    assert gaze.text.tolist() == [[5] * 4]
    assert ((gaze.regions >= 0).sum(-1) == k).all()


@pytest.mark.parametrize("seed", range(0, 24, 3))
def test_steps_look_where_the_oracle_looks(seed):
    """The regions recorded for each step, layer and head; and no other page read: the rest may hold anything."""
    case, layout, layers = drawn(seed)
    q, k, v = cast(layers, torch.float64)[0]
    _, selected = oracle_attention(q, k, v, layout, case.config, scaling=SCALING)
    stream = Stream(case.config)
    length = layout.shape[1]
    for at in range(length):
        part = table_so_far(layout, at + 1).tokens(slice(at, at + 1))
        stream.feed([(q[:, :, at : at + 1], k[:, :, at : at + 1], v[:, :, at : at + 1])], part)
        if not (part.role == TEXT).any() or not part.num_regions:
            continue
        regions = stream.recorder.layers[0].regions
        for b in range(layout.shape[0]):
            for h in range(case.heads):
                if part.role[b, 0] == TEXT:
                    got = regions[b, h * regions.shape[1] // case.heads].tolist()
                    assert sorted(g for g in got if g >= 0) == selected[b][h][at]


def test_pages_left_out_are_not_read():
    """NaN in every page that a step did not choose: the output does not notice."""
    config = GazeConfig(image=RegionBudget((1, 2, 2), top_k=2), num_context_tokens=1)
    layout = build([[[("text", (1,)), ("image", (1, 6, 6)), ("text", (2,))]]], config).layout()
    length = layout.shape[1]
    generator = torch.Generator().manual_seed(0)
    qkv = tuple(torch.randn(1, 2, length, DIM, generator=generator) for _ in range(3))
    outputs = []
    chosen = None
    for poison in (False, True):
        stream = Stream(config)
        stream.feed([tuple(x[:, :, : length - 1] for x in qkv)], layout.tokens(slice(0, length - 1)))
        pages = stream.cache.layers[0]
        if poison:
            for h in range(2):
                for g in set(range(9)) - set(chosen[0, h].tolist()):
                    pages.page_keys[0, h, g] = pages.page_values[0, h, g] = torch.nan
        last = layout.tokens(slice(length - 1, length))
        outputs += stream.feed([tuple(x[:, :, length - 1 :] for x in qkv)], last)
        chosen = stream.recorder.layers[0].regions
    assert outputs[0].isfinite().all() and torch.equal(*outputs)


@pytest.mark.parametrize("seed", [seed for seed in range(0, 24, 2) if draw_case(seed).batch.layout().shape[0] > 1])
def test_steps_leak_nothing_from_other_rows(seed):
    case, layout, layers = drawn(seed)
    layers = layers[:1]
    cuts = cuts_of_kind("prefill, then steps", layout, seed)
    (out,) = Stream(case.config).feed_pieces(layers, layout, cuts)
    others = [tuple(torch.cat([x[:1], 30 * torch.randn_like(x[1:])]) for x in layers[0])]
    (changed,) = Stream(case.config).feed_pieces(others, layout, cuts)
    assert torch.equal(out[0], changed[0])


def test_options_that_the_stored_descriptors_were_not_made_for():
    cache = GazeCache(GazeConfig(descriptor="mean"))
    cache.check(GazeConfig(descriptor="mean", image=RegionBudget(top_k=2)))
    with pytest.raises(ValueError, match="max"):
        cache.check(GazeConfig(descriptor="max"))
    with pytest.raises(ValueError, match="pre_rope"):
        cache.check(GazeConfig(descriptor_keys="pre_rope"))


def test_another_budget_between_steps():
    """Nothing is evicted: a later step may look at more, or elsewhere."""
    config = GazeConfig(image=RegionBudget((1, 2, 2), top_k=1), num_context_tokens=1)
    layout = build([[[("text", (1,)), ("image", (1, 4, 6)), ("text", (4,))]]], config).layout()
    length = layout.shape[1]
    generator = torch.Generator().manual_seed(0)
    qkv = tuple(torch.randn(1, n, length, DIM, generator=generator, dtype=torch.float64) for n in (2, 1, 1))
    stream = Stream(config)
    stream.feed([tuple(x[:, :, : length - 3] for x in qkv)], layout.tokens(slice(0, length - 3)))
    for at, k in zip(range(length - 3, length), (4, 1, 6), strict=True):
        stream.config = config.override(top_k=k)
        (got,) = stream.feed([tuple(x[:, :, at : at + 1] for x in qkv)], layout.tokens(slice(at, at + 1)))
        want, _ = oracle_attention(*qkv, layout, stream.config, scaling=SCALING)
        assert torch.allclose(got[0, :, 0], want[0, :, at], rtol=1e-6, atol=1e-6)
        assert (layout.role == VISUAL).sum() == 24


def tiny_batch(model, rows):
    """Random text, 8×8 images, left padding; the tensors of a processor, and the batch that they were made from."""
    batch = build([[row] for row in rows], model.config.gaze_config, left=True)
    config, generator = model.config, torch.Generator().manual_seed(0)
    ids = torch.tensor([0, config.image_token_id, config.video_token_id, config.context_token_id])
    types = batch.mm_token_type_ids
    words = torch.randint(5, 200, types.shape, generator=generator)
    tensors = {
        "input_ids": torch.where(types > 0, ids[types], words),
        "attention_mask": batch.attention_mask,
        "mm_token_type_ids": types,
        "pixel_values": torch.randn(int(batch.grid_thw[:, 0].sum()), 3, 64, 64, generator=generator),
        "grid_thw": batch.grid_thw,
    }
    return batch, tensors


GRID = (1, 8, 8)
TURNS = [
    [("text", (2,)), ("image", GRID), ("text", (9,))],
    [("image", GRID), ("text", (4,)), ("image", GRID), ("text", (5,))],
    [("text", (3,)), ("video", (2, 8, 8)), ("text", (2,)), ("image", GRID), ("text", (4,))],
]


@pytest.mark.parametrize(
    "gaze",
    [
        {"top_k": 2},
        {"top_k": 1, "head_granularity": "kv_group", "dense_layers": (1,)},
        {"keep_ratio": 0.3, "context_visible": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["all at once", "as fine as can be", "mixture"])
@torch.no_grad()
def test_the_whole_model_in_any_mixture(model, gaze, kind):
    """Layouts derived call by call, images in later calls, rows of unequal length."""
    batch, tensors = tiny_batch(model, TURNS)
    want = model(**tensors, gaze=gaze).logits
    cuts = free_cuts(batch.layout())
    if kind != "as fine as can be":
        cuts = cuts[1::3] if kind == "mixture" else []
    bounds = [0, *cuts, batch.attention_mask.shape[1]]
    frames = torch.arange(len(tensors["pixel_values"])).split(batch.grid_thw[:, 0].tolist())
    cache, pieces = GazeCache(model.config.gaze_config.override(**gaze)), []
    for (start, stop), items in zip(zip(bounds, bounds[1:], strict=False), items_between(batch, bounds), strict=True):
        images = [frames[item] for item in items]
        output = model(
            input_ids=tensors["input_ids"][:, start:stop],
            attention_mask=tensors["attention_mask"][:, :stop],
            mm_token_type_ids=tensors["mm_token_type_ids"][:, start:stop],
            pixel_values=tensors["pixel_values"][torch.cat(images)] if images else None,
            grid_thw=batch.grid_thw[items] if items else None,
            past_key_values=cache,
            use_cache=True,
            gaze=gaze,
        )
        pieces.append(output.logits)
    got = torch.cat(pieces, 1)
    where = batch.attention_mask.bool()
    assert got.isfinite().all()
    assert torch.allclose(got[where], want[where], rtol=1e-3, atol=1e-3 * want[where].abs().max().item())


@torch.no_grad()
def test_a_later_turn_of_unequal_length(model):
    """The second turn is padded on the left inside the rows: the same as each row by itself."""
    turns = [[TURNS[0], [("text", (7,))]], [[("text", (5,))], [("text", (1,)), ("image", GRID), ("text", (2,))]]]
    first, second = (tiny_batch(model, [rows[n] for rows in turns]) for n in (0, 1))
    cache = GazeCache(model.config.gaze_config)
    model(**first[1], past_key_values=cache, use_cache=True)
    mask = torch.cat([first[1]["attention_mask"], second[1]["attention_mask"]], 1)
    together = model(**{**second[1], "attention_mask": mask}, past_key_values=cache, use_cache=True).logits
    assert together.isfinite().all()
    for b, images in enumerate(((1, 0), (0, 1))):
        cache, outputs = GazeCache(model.config.gaze_config), None
        for turn, count in zip((first[1], second[1]), images, strict=True):
            real = turn["attention_mask"][b].bool()
            alone = {
                "input_ids": turn["input_ids"][b : b + 1, real],
                "mm_token_type_ids": turn["mm_token_type_ids"][b : b + 1, real],
                "pixel_values": turn["pixel_values"] if count else None,
                "grid_thw": turn["grid_thw"] if count else None,
            }
            outputs = model(**alone, past_key_values=cache, use_cache=True).logits
        scale = outputs.abs().max().item()
        assert torch.allclose(together[b, real], outputs[0], rtol=1e-3, atol=1e-3 * scale)
