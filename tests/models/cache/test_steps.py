"""Decoding steps against the gaze cache: where they look, what they read, and how much."""

import pytest
import torch

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.cost import attended_visual
from cambrian_gaze.gaze.layout import TEXT, VISUAL
from cambrian_gaze.gaze.oracle import oracle_attention
from tests._layouts import build, draw_case
from tests.models._streams import DIM, SCALING, Stream, cast, cuts_of_kind, drawn, table_so_far


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
