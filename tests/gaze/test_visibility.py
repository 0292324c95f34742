"""Visibility (masks) against the oracle's rules, pair by pair."""

import itertools
import random

import pytest
import torch

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.layout import CONTEXT, PAD, TEXT, VISUAL
from cambrian_gaze.gaze.oracle import oracle_keys
from cambrian_gaze.gaze.visibility import regions_offered, routable, routing_queries, structure
from tests._layouts import build, draw_case

OPTIONS = [
    {"visual_queries": queries, "visual_sees_context": sees, "context_visible": visible}
    for queries, sees, visible in itertools.product(("causal", "unit", "gaze"), (True, False), (True, False))
]


def _layout(seed, **options):
    case = draw_case(seed, **options)
    layout = case.batch.layout()
    if seed % 2:
        routed = torch.rand(layout.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
        layout = type(layout)(**{**vars(layout), "routed": routed})
    return layout, case.config


def routes_by_rule(layout, config):
    """Text queries that are not excused, and visual ones under "gaze"."""
    text = (layout.role == TEXT) & layout.routed
    return text | (layout.role == VISUAL) if config.visual_queries == "gaze" else text


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_structure_and_routing_give_the_keys_of_the_oracle(seed, options):
    layout, config = _layout(seed, **options)
    rng = random.Random(seed)
    offered = regions_offered(layout, config)
    picks = offered & (torch.rand(offered.shape, generator=torch.Generator().manual_seed(seed)) < rng.random())
    routes = routes_by_rule(layout, config)
    assert torch.equal(routing_queries(layout, config), routes)
    seen = structure(layout, layout, config)
    at_key = picks.gather(-1, layout.region.clamp(min=0)[:, None, :].expand_as(seen))
    seen = seen & (at_key | ~routable(layout, layout, config))
    for b in range(layout.shape[0]):
        selected = [picks[b, i].nonzero().flatten().tolist() if routes[b, i] else None for i in range(layout.shape[1])]
        for i, keys in enumerate(oracle_keys(layout, config, b, selected)):
            if layout.role[b, i] != PAD:
                assert seen[b, i].nonzero().flatten().tolist() == keys, (b, i)


@pytest.mark.parametrize("seed", range(8))
def test_offered_regions_lie_wholly_before_the_query_in_its_sample(seed):
    layout, config = _layout(seed, visual_queries=("causal", "gaze")[seed % 2])
    offered, routes = regions_offered(layout, config), routes_by_rule(layout, config)
    for b, i, g in itertools.product(*(range(n) for n in offered.shape)):
        places = [j for j in range(layout.shape[1]) if layout.region[b, j] == g]
        units = {int(layout.unit[b, j]) for j in places}
        whole = [j for j in range(layout.shape[1]) if int(layout.unit[b, j]) in units]
        want = (
            bool(places)
            and bool(routes[b, i])
            and max(whole) < i
            and layout.sample[b, places[0]] == layout.sample[b, i]
        )
        assert offered[b, i, g] == want


@pytest.mark.parametrize("seed", range(8))
def test_every_query_sees_itself_and_nothing_later(seed):
    layout, config = _layout(seed)
    seen = structure(layout, layout, config)
    assert seen.diagonal(dim1=1, dim2=2).all(), "an empty row would make NaN"
    assert not seen.triu(1).any()
    other = layout.sample[:, :, None] != layout.sample[:, None, :]
    assert not (seen & other).any()
    padding = (layout.role == PAD)[:, None, :] & (layout.role != PAD)[:, :, None]
    assert not (seen & padding).any()


def test_by_hand():
    """t | v v c | t | v v c | t, with |C|=1: the second text query, and the context query of the second unit."""
    row = [("text", (1,)), ("image", (1, 1, 2)), ("text", (1,)), ("image", (1, 1, 2)), ("text", (1,))]
    config = GazeConfig(image=RegionBudget((1, 1, 1), top_k=1), num_context_tokens=1)
    layout = build([[row]], config).layout()
    assert layout.role[0].tolist() == [TEXT, VISUAL, VISUAL, CONTEXT, TEXT, VISUAL, VISUAL, CONTEXT, TEXT]
    seen = structure(layout, layout, config)[0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
    assert routable(layout, layout, config)[0, 8].int().tolist() == [0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert not routable(layout, layout, config)[0, [1, 2, 3, 5, 6, 7]].any(), "only text routes"
    assert regions_offered(layout, config)[0].int().tolist()[-1] == [1, 1, 1, 1]
    assert regions_offered(layout, config)[0].int().tolist()[4] == [1, 1, 0, 0]
