"""`GazeConfig`: sizes and budgets that make no sense, options at run time."""

import json

import pytest

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget


@pytest.mark.parametrize("top_k", [0, -1, 2.0, True, "2"])
def test_top_k_that_makes_no_sense(top_k):
    with pytest.raises(ValueError, match="top_k"):
        RegionBudget(top_k=top_k)


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01, float("nan")])
def test_keep_ratio_that_makes_no_sense(ratio):
    with pytest.raises(ValueError, match="keep_ratio"):
        RegionBudget(keep_ratio=ratio)


@pytest.mark.parametrize("tokens", [0, -36, 0.5])
def test_kv_budget_that_makes_no_sense(tokens):
    with pytest.raises(ValueError, match="kv_budget"):
        RegionBudget(kv_budget=tokens)


@pytest.mark.parametrize("size", [(1, 0, 6), (1, 6), (1, 6, -6), (6,), (1, 2.5, 3), (1, 1, 1, 1)])
def test_region_size_that_makes_no_sense(size):
    with pytest.raises(ValueError, match="region_size"):
        RegionBudget(size)


def test_two_budgets_at_once():
    with pytest.raises(ValueError, match=r"exactly one.*top_k.*keep_ratio"):
        RegionBudget(top_k=2, keep_ratio=0.5)
    with pytest.raises(ValueError, match="exactly one"):
        GazeConfig().override(top_k=2, kv_budget=72)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_context_tokens": -1},
        {"min_keep_ratio": 1.5},
        {"min_keep_ratio": -0.1},
        {"dense_layers": (-1,)},
        {"head_granularity": "head"},
        {"descriptor": "median"},
        {"descriptor_keys": "rope"},
        {"visual_queries": "text"},
    ],
)
def test_fields_that_make_no_sense(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=name):
        GazeConfig(**fields)


def test_the_defaults_are_the_decisions():
    config = GazeConfig()
    assert config.image.region_size == (1, 6, 6) and config.video is None and config.num_context_tokens == 4
    assert (config.head_granularity, config.descriptor, config.descriptor_keys) == ("q_head", "mean", "post_rope")
    assert config.visual_queries == "causal" and config.visual_sees_context and config.context_visible
    assert config.route_prompt and config.dense_layers == () and config.is_dense


@pytest.mark.parametrize(
    "config",
    [
        GazeConfig(),
        GazeConfig(image=RegionBudget((1, 3, 3), top_k=4), video=RegionBudget((2, 6, 6), kv_budget=144)),
        GazeConfig(image=RegionBudget(keep_ratio=0.125), dense_layers=(0, 3), descriptor="minmax", min_keep_ratio=0.25),
    ],
)
def test_through_json_and_back(config):
    assert GazeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(("name", "nearest"), [("topk", "top_k"), ("contextvisible", "context_visible")])
def test_an_unknown_option_names_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=nearest):
        GazeConfig().override(**{name: 1})


def test_unknown_keys_of_a_file():
    with pytest.raises(ValueError, match="head_granularity"):
        GazeConfig.from_dict({"head_granularty": "q_head"})
    with pytest.raises(ValueError, match="region_size"):
        GazeConfig.from_dict({"image": {"region_sizes": [1, 6, 6]}})


@pytest.mark.parametrize("budget", [{"top_k": 2}, {"keep_ratio": 0.5}, {"kv_budget": 72}])
def test_a_budget_at_run_time_applies_to_both_modalities(budget):
    config = GazeConfig(image=RegionBudget((1, 3, 3), top_k=9), video=RegionBudget((1, 6, 6), keep_ratio=0.9))
    changed = config.override(**budget)
    for old, new in ((config.image, changed.image), (config.video, changed.video)):
        assert new == RegionBudget(old.region_size, **budget)
    assert config.image.top_k == 9, "the original stays"


def test_other_options_at_run_time():
    config = GazeConfig(image=RegionBudget(top_k=2))
    changed = config.override(context_visible=False, min_keep_ratio=0.5, head_granularity="kv_group")
    assert not changed.context_visible and changed.min_keep_ratio == 0.5 and changed.image == config.image
    with pytest.raises(ValueError, match="num_context_tokens is 4"):
        config.override(num_context_tokens=2)
    with pytest.raises(ValueError, match="top_k"):
        config.override(top_k=0)


def test_dense_means_every_region():
    assert GazeConfig(image=RegionBudget(keep_ratio=1.0)).is_dense
    assert GazeConfig(image=RegionBudget(top_k=2), min_keep_ratio=1.0).is_dense
    assert not GazeConfig(video=RegionBudget(top_k=2)).is_dense
    config = GazeConfig(image=RegionBudget(top_k=2), dense_layers=(1,))
    assert [config.routes(layer) for layer in range(3)] == [True, False, True]
