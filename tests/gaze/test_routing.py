"""TopK: selections, ties, counts, pools."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.layout import IMAGE, VIDEO
from cambrian_gaze.gaze.oracle import oracle_kept, oracle_selection
from cambrian_gaze.gaze.routing import as_mask, choose_regions, regions_kept
from cambrian_gaze.gaze.visibility import regions_offered
from tests._layouts import build, draw_case, draw_tensors
from tests.gaze.test_descriptors import fast_scores

DIM = 8
BUDGETS = st.one_of(
    st.integers(1, 40).map(lambda k: {"top_k": k}),
    st.sampled_from([0.01, 0.1, 0.125, 0.3, 0.55, 0.7, 5 / 7, 1 / 3, 1.0]).map(lambda r: {"keep_ratio": r}),
    st.integers(1, 400).map(lambda n: {"kv_budget": n}),
    st.just({}),
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(24))
def test_selections_equal_the_oracle(seed, dtype):
    case = draw_case(seed)
    layout, config = case.batch.layout(), case.config
    q, k, _ = draw_tensors(case, dim=DIM, dtype=dtype)
    scores = fast_scores(q, k, layout, config, DIM**-0.5)
    chosen = choose_regions(scores, regions_offered(layout, config), layout, config)
    assert chosen.shape[:3] == scores.shape[:3] and chosen.dtype == torch.int64
    repeats = case.heads // chosen.shape[1]
    for b, heads in enumerate(oracle_selection(q, k, layout, config, scaling=DIM**-0.5)):
        for h, queries in enumerate(heads):
            for i, want in enumerate(queries):
                got = chosen[b, h // repeats, i].tolist()
                assert sorted(g for g in got if g >= 0) == (want or [])


@given(BUDGETS, st.sampled_from([(1, 6, 6), (1, 3, 3), (2, 2, 2), (1, 1, 1)]), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
@settings(deadline=None)
def test_count_kept(budget, size, floor):
    budget = RegionBudget(size, **budget)
    visible = torch.arange(0, 130)
    kept = regions_kept(visible, budget, floor)
    assert kept.tolist() == [oracle_kept(budget, n, floor) for n in range(130)]
    assert (kept <= visible).all() and (kept[1:] >= 1).all()


@pytest.mark.parametrize(
    ("ratio", "visible", "kept"),
    [
        (0.55, 100, 55),
        (0.3, 10, 3),
        (0.1, 30, 3),
        (5 / 7, 7, 5),
        (1 / 3, 9, 3),
        (0.01, 5, 1),
        (0.125, 16, 2),
        (0.3, 11, 4),
    ],
)
def test_a_ratio_means_the_number_it_stands_for(ratio, visible, kept):
    assert regions_kept(torch.tensor(visible), RegionBudget(keep_ratio=ratio), 0.0) == kept


@pytest.mark.parametrize(
    ("size", "tokens", "kept"), [((1, 6, 6), 72, 2), ((1, 6, 6), 107, 2), ((1, 6, 6), 35, 1), ((2, 3, 3), 36, 2)]
)
def test_a_budget_in_tokens(size, tokens, kept):
    assert regions_kept(torch.tensor(16), RegionBudget(size, kv_budget=tokens), 0.0) == kept


def _one_image(regions=6, **options):
    config = GazeConfig(image=RegionBudget((1, 1, 1), top_k=3), num_context_tokens=0, **options)
    return build([[[("text", (1,)), ("image", (1, 1, regions)), ("text", (2,))]]], config).layout(), config


@pytest.mark.parametrize(
    ("scores", "want"),
    [
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0, 1, 2]),
        ([1.0, 2.0, 2.0, 2.0, 2.0, 0.0], [1, 2, 3]),
        ([0.0, 1.0, 0.0, 5.0, 0.0, 1.0], [1, 3, 5]),
        ([-1.0, -1.0, -2.0, -1.0, -1.0, -1.0], [0, 1, 3]),
        ([-0.0, 0.0, -0.0, 0.0, 0.0, 1.0], [0, 1, 5]),
    ],
)
def test_ties_go_to_the_lowest_region(scores, want):
    layout, config = _one_image()
    scores = torch.tensor(scores).expand(1, 1, layout.shape[1], 6)
    chosen = choose_regions(scores, regions_offered(layout, config), layout, config)
    assert sorted(chosen[0, 0, -1].tolist()) == want
    assert (chosen[0, 0, :7] == -1).all(), "text before the image and the image itself choose nothing"


def test_ties_among_many_regions():
    """Long rows are where an unstable sort shows."""
    layout, config = _one_image(regions=3000)
    scores = torch.zeros(1, 2, 1, 3000)
    scores[..., 2000] = 1.0
    last = layout.tokens(slice(-1, None))
    chosen = choose_regions(scores, regions_offered(last, config), last, config)
    assert chosen[0, :, 0].sort().values.tolist() == [[0, 1, 2000]] * 2


@pytest.mark.parametrize("descriptor", ["mean", "max", "minmax", "oracle"])
@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_regions_tie_exactly(descriptor, granularity, dtype):
    """Identical keys in two regions give bit-identical scores, so that the lower one wins."""
    config = GazeConfig(
        image=RegionBudget((1, 1, 3), top_k=1),
        num_context_tokens=0,
        descriptor=descriptor,
        head_granularity=granularity,
    )
    layout = build([[[("image", (1, 1, 12)), ("text", (3,))]]], config).layout()
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, 15, DIM, generator=generator, dtype=dtype)
    block = torch.randn(1, 2, 3, DIM, generator=generator, dtype=dtype)
    k = torch.cat([block] * 5, dim=2)
    scores = fast_scores(q, k, layout, config, 1.0)
    chosen = choose_regions(scores, regions_offered(layout, config), layout, config)
    assert (chosen[:, :, -3:, 0] == 0).all()
    want = oracle_selection(q, k, layout, config, scaling=1.0)
    assert all(pool == [0] for head in want[0] for pool in head if pool)


@pytest.mark.parametrize("seed", range(24))
def test_counts_follow_the_budget_of_each_pool(seed):
    video = RegionBudget((1, 2, 2), top_k=2)
    case = draw_case(seed, video=video if seed % 2 else None, visual_queries="causal")
    layout, config = case.batch.layout(), case.config
    offered = regions_offered(layout, config)
    scores = torch.randn(layout.shape[0], 2, layout.shape[1], layout.num_regions)
    chosen = as_mask(choose_regions(scores, offered, layout, config), layout.num_regions)
    assert not (chosen & ~offered[:, None]).any(), "nothing is chosen that was not offered"
    pools = [(IMAGE, VIDEO)] if config.video is None else [(IMAGE,), (VIDEO,)]
    for pool in pools:
        mine = torch.isin(layout.region_modality, torch.tensor(pool))[:, None, :]
        kept = (chosen & mine[:, None]).sum(-1)
        for b in range(layout.shape[0]):
            for i in range(layout.shape[1]):
                want = oracle_kept(config.budget(pool[0]), int((offered & mine)[b, i].sum()), config.min_keep_ratio)
                assert kept[b, :, i].tolist() == [want] * 2


def test_scores_of_minus_infinity_never_choose_what_is_not_offered():
    """A region whose share of the attention underflows is still offered; a later unit's regions are not."""
    config = GazeConfig(image=RegionBudget((1, 1, 1), top_k=2), num_context_tokens=0)
    row = [("image", (1, 1, 2)), ("text", (1,)), ("image", (1, 1, 2)), ("text", (1,))]
    layout = build([[[("image", (1, 1, 2)), ("text", (1,))], row]], config).layout()
    scores = torch.full((1, 1, layout.shape[1], layout.num_regions), -math.inf)
    offered = regions_offered(layout, config)
    chosen = as_mask(choose_regions(scores, offered, layout, config), layout.num_regions)
    assert not (chosen & ~offered[:, None]).any()


def test_the_mask_of_no_choice():
    mask = as_mask(torch.tensor([[[[2, -1], [-1, -1]]]]), 3)
    assert mask.tolist() == [[[[False, False, True], [False, False, False]]]]


def test_the_floor_of_the_schedule_raises_k():
    layout, config = _one_image(regions=10)
    scores = torch.randn(1, 1, layout.shape[1], 10, generator=torch.Generator().manual_seed(0))
    offered = regions_offered(layout, config)
    for floor, kept in [(0.0, 3), (0.3, 3), (0.31, 4), (0.5, 5), (1.0, 10)]:
        chosen = choose_regions(scores, offered, layout, dataclasses.replace(config, min_keep_ratio=floor))
        assert (chosen[0, 0, -1] >= 0).sum() == kept


def test_many_regions_rank_as_a_stable_sort_does():
    """Where TopK over integers takes over from the sort: random scores, ties, both zeros, infinities."""
    from cambrian_gaze.gaze.routing import SORT_UP_TO, _order

    generator = torch.Generator().manual_seed(0)
    size = SORT_UP_TO + 200
    coarse = torch.randint(-3, 4, (2, 3, 5, size), generator=generator) / 2
    special = coarse.where(coarse != 1, torch.inf).where(coarse != -1, -torch.inf).where(coarse != 0, -0.0)
    special[..., ::3] += 0.0
    for scores in (torch.randn(coarse.shape, generator=generator), coarse, special, special * 1e-42):
        for most in (1, 17, size // 2):
            want = scores.sort(dim=-1, descending=True, stable=True).indices[..., :most]
            assert torch.equal(_order(scores, most), want)
