"""The cost model: the paper's numbers, and what the masks really let through."""

import dataclasses
import random

import pytest
import torch

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.cost import attended_visual, num_regions
from cambrian_gaze.gaze.layout import CONTEXT, VIDEO, VISUAL
from cambrian_gaze.gaze.routing import as_mask, choose_regions
from cambrian_gaze.gaze.visibility import regions_offered, routable, structure
from tests._layouts import build

TABLE = [
    # grid, region size, K -> R, selected, context, of
    ((1, 24, 24), (1, 6, 6), 2, 16, 72, 4, 576),
    ((1, 24, 24), (1, 6, 6), 4, 16, 144, 4, 576),
    ((1, 24, 24), (1, 6, 6), 8, 16, 288, 4, 576),
    ((1, 12, 12), (1, 3, 3), 4, 16, 36, 4, 144),
    ((1, 12, 12), (1, 3, 3), 6, 16, 54, 4, 144),
    ((8, 24, 24), (1, 6, 6), 20, 128, 720, 32, 4608),
]


def counted(grids, config, modalities):
    """Visual and context entries that the last text query attends to, by the masks, under random scores: the most
    and the least over 8 heads."""
    row = [("image" if kind == 1 else "video", grid) for kind, grid in zip(modalities, grids, strict=True)]
    layout = build([[[("text", (3,)), *row, ("text", (2,))]]], config).layout()
    query = layout.tokens(slice(-1, None))
    offered = regions_offered(query, config)
    scores = torch.randn(1, 8, 1, layout.num_regions, generator=torch.Generator().manual_seed(0))
    chosen = as_mask(choose_regions(scores, offered, query, config), layout.num_regions)
    at_key = chosen.gather(-1, layout.region.clamp(min=0)[:, None, None].expand(-1, 8, 1, -1))
    seen = structure(query, layout, config)[:, None] & (at_key | ~routable(query, layout, config)[:, None])
    visual, context = ((seen & (layout.role == role)[:, None, None]).sum(-1).flatten() for role in (VISUAL, CONTEXT))
    return visual, context


@pytest.mark.parametrize(("grid", "size", "k", "regions", "selected", "context", "of"), TABLE)
def test_the_table(grid, size, k, regions, selected, context, of):
    config = GazeConfig(image=RegionBudget(size, top_k=k))
    cost = attended_visual([grid], config)
    assert (cost.regions, cost.kept, cost.selected, cost.context, cost.of) == (regions, k, selected, context, of)
    assert cost.total == selected + context
    visual, seen_context = counted([grid], config, [2 if grid[0] > 1 else 1])
    assert visual.tolist() == [selected] * 8 and seen_context.tolist() == [context] * 8


def test_the_video_row_of_the_paper():
    cost = attended_visual([(8, 24, 24)], GazeConfig(image=RegionBudget((1, 6, 6), top_k=20)))
    assert cost.total == 752 and cost.of == 4608
    assert round(100 * cost.share, 1) == 16.3


@pytest.mark.parametrize("k", [2, 4, 8])
def test_budgets_that_say_the_same(k):
    want = attended_visual([(1, 24, 24)], GazeConfig(image=RegionBudget(top_k=k)))
    for budget in ({"keep_ratio": k / 16}, {"kv_budget": 36 * k}, {"kv_budget": 36 * k + 35}):
        assert attended_visual([(1, 24, 24)], GazeConfig(image=RegionBudget(**budget))) == want


@pytest.mark.parametrize("seed", range(30))
def test_equals_the_count_of_the_masks(seed):
    rng = random.Random(seed)
    ragged = seed % 2
    grids = rng.choices(
        [(1, 5, 7), (1, 4, 5), (3, 4, 3)] if ragged else [(1, 6, 6), (1, 6, 3), (2, 3, 6)], k=rng.randint(1, 3)
    )
    modalities = [2 if grid[0] > 1 else rng.choice([1, 2]) for grid in grids]
    budgets = [{"top_k": 2}, {"keep_ratio": 0.4}, {"kv_budget": 30}, {}]
    config = GazeConfig(
        image=RegionBudget((1, 3, 3), **rng.choice(budgets)),
        video=rng.choice([None, RegionBudget((1, 3, 3) if not ragged else (2, 2, 2), **rng.choice(budgets))]),
        num_context_tokens=rng.choice([0, 1, 4]),
        context_visible=rng.random() < 0.7,
        min_keep_ratio=rng.choice([0.0, 0.5]),
    )
    cost = attended_visual(grids, config, modalities)
    visual, context = counted(grids, config, modalities)
    assert context.tolist() == [cost.context] * 8
    assert cost.of == sum(t * h * w for t, h, w in grids)
    if ragged:
        assert visual.max() <= cost.selected, "the most that K regions can hold"
    else:
        assert visual.tolist() == [cost.selected] * 8


def test_ragged_regions_count_what_the_largest_hold():
    cost = attended_visual([(1, 27, 27)], GazeConfig(image=RegionBudget((1, 6, 6), top_k=17)))
    assert cost.regions == 25 and cost.selected == 16 * 36 + 18


def test_one_pool_for_each_modality_with_a_budget_of_its_own():
    config = GazeConfig(image=RegionBudget((1, 3, 3), top_k=4), video=RegionBudget((1, 6, 6), top_k=20))
    cost = attended_visual([(1, 12, 12), (8, 24, 24)], config)
    assert cost.selected == 36 + 720 and cost.context == 4 * 9 and cost.kept == 24 and cost.regions == 16 + 128
    alone = attended_visual([(1, 24, 24)], config, [VIDEO])
    assert alone.regions == 16 and alone.selected == 576, "K is clamped to what is there"


def test_no_visual_tokens():
    cost = attended_visual([], GazeConfig())
    assert (cost.total, cost.of, cost.share) == (0, 0, 0.0)


def test_hidden_context_costs_nothing():
    config = GazeConfig(image=RegionBudget(top_k=2), context_visible=False)
    assert attended_visual([(1, 24, 24)], config).context == 0


@pytest.mark.parametrize(
    ("grid", "size", "want"), [((1, 27, 27), (1, 6, 6), 25), ((8, 24, 24), (2, 6, 6), 64), ((3, 2, 2), (2, 2, 2), 2)]
)
def test_num_regions(grid, size, want):
    assert num_regions(grid, size) == want


def test_hidden_regions_are_not_offered():
    config = GazeConfig.from_dict({"image": {"region_size": [1, 2, 2], "top_k": 3}})
    grids = [(1, 4, 4), (1, 3, 4)]  # regions 0 to 3 of four tokens; 4 and 5 of four, 6 and 7 of two
    whole = attended_visual(grids, config)
    assert (whole.selected, whole.regions, whole.kept, whole.of) == (12, 8, 3, 28)
    few = attended_visual(grids, config, hidden={0, 1, 2, 3, 5, 6})
    assert (few.selected, few.regions, few.kept, few.of) == (6, 2, 2, 28)
    assert attended_visual(grids, config, hidden={0}) == dataclasses.replace(whole, regions=7)
