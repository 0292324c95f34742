"""A region descriptor of one's own: registered, it is chosen by name, routes in every path, and equals its twin."""

import dataclasses

import pytest
import torch

from cambrian_gaze import CambrianGazeProcessor
from cambrian_gaze.gaze import GazeConfig, RegionBudget
from cambrian_gaze.gaze.descriptors import (
    DESCRIPTORS,
    RegionDescriptor,
    describe,
    reduce_regions,
    region_scores,
    register_descriptor,
)
from cambrian_gaze.gaze.oracle import oracle_attention, oracle_scores
from cambrian_gaze.gaze.visibility import regions_offered
from tests._layouts import draw_case, draw_tensors
from tests.attention._run import SCALING, real, run
from tests.models.conftest import ask, make_model, noise


class MeanAndPeak(RegionDescriptor):
    """A toy: the mean and the maximum of the keys side by side; the better of the two products counts."""

    name = "mean_and_peak"

    def describe(self, keys, region, num_regions):
        return torch.cat(reduce_regions(keys, region, num_regions, "mean", "amax"), dim=-1)

    def score(self, q, descriptors):
        mean, peak = (d.unsqueeze(2).transpose(-1, -2) for d in descriptors.chunk(2, dim=-1))
        return torch.maximum(q @ mean, q @ peak)

    def twin_describe(self, keys):
        return sum(keys) / len(keys), keys.amax(0)

    def twin_score(self, q, kept, scaling):
        return max((q @ d).item() for d in kept)


class Centre(RegionDescriptor):
    """A toy of one vector, the middle of the keys' box, which decoding kernels may rank themselves."""

    name = "centre"
    is_product = True

    def describe(self, keys, region, num_regions):
        low, high = reduce_regions(keys, region, num_regions, "amin", "amax")
        return (low + high) / 2

    def score(self, q, descriptors):
        return q @ descriptors.unsqueeze(2).transpose(-1, -2)

    def twin_describe(self, keys):
        return ((keys.amin(0) + keys.amax(0)) / 2,)

    def twin_score(self, q, kept, scaling):
        return (q @ kept[0]).item()


class Nearest(RegionDescriptor):
    """A toy that keeps nothing: a region scores as its best key does."""

    name = "nearest"
    needs_keys = True

    def score_keys(self, q, keys, region, num_regions, scaling, granularity):
        groups = keys.shape[1]
        logits = q.unflatten(1, (groups, -1)).to(keys.dtype) @ keys.unsqueeze(2).transpose(-1, -2)
        inside = torch.arange(num_regions)[:, None] == region[:, None, None, None, None, :]
        scores = logits.unsqueeze(-2).masked_fill(~inside, torch.finfo(keys.dtype).min).amax(-1)
        return scores.mean(2) if granularity == "kv_group" else scores.flatten(1, 2)

    def twin_describe(self, keys):
        return (keys,)

    def twin_score(self, q, kept, scaling):
        return max((q @ key).item() for key in kept[0])


TOYS = [MeanAndPeak(), Centre(), Nearest()]


@pytest.fixture(params=TOYS, ids=lambda toy: toy.name)
def toy(request):
    yield register_descriptor(request.param)
    del DESCRIPTORS[request.param.name]


@pytest.mark.parametrize("seed", [*range(3), *range(12, 15)])
def test_scores_equal_the_twin(toy, seed):
    case = draw_case(seed, descriptor=toy.name)
    layout, config = case.batch.layout(), case.config
    q, k, _ = draw_tensors(case, margin=0.0)
    if toy.needs_keys:
        scores = toy.score_keys(q, k, layout.region, layout.num_regions, 1.0, config.head_granularity)
    else:
        scores = region_scores(
            q, describe(k, layout.region, layout.num_regions, toy.name), toy.name, config.head_granularity
        )
    offered, repeats = regions_offered(layout, config), case.heads // scores.shape[1]
    for b, heads in enumerate(oracle_scores(q, k, layout, config, scaling=1.0)):
        for h, queries in enumerate(heads):
            for i, pool in enumerate(queries):
                assert sorted(pool or {}) == offered[b, i].nonzero().flatten().tolist()
                for g, score in (pool or {}).items():
                    assert scores[b, h // repeats, i, g].item() == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("backend", ["masked", "varlen_reference"])
@pytest.mark.parametrize("seed", [3, 15])
def test_backends_equal_the_oracle(toy, seed, backend):
    one = dict(image=RegionBudget((1, 2, 2), top_k=1), video=None, min_keep_ratio=0.0, visual_queries="causal")
    case = draw_case(seed, descriptor=toy.name, backend=backend, **one)
    layout = case.batch.layout()
    q, k, v = draw_tensors(case, scaling=SCALING)
    out = run(q, k, v, layout, case.config)
    want, _ = oracle_attention(q, k, v, layout, case.config, scaling=SCALING)
    where = real(layout, case.heads)
    assert torch.allclose(out[where], want[where], atol=1e-9)
    plain = dataclasses.replace(case.config, descriptor="mean")
    assert not torch.allclose(run(q, k, v, layout, plain)[where], want[where], atol=1e-3), "it makes no difference"


def test_a_model_generates_with_it(toy):
    """From the cache, step by step, as without one."""
    model, processor = make_model(gaze={"descriptor": toy.name}), CambrianGazeProcessor.from_preset("tiny")
    rows = ask(noise(0), noise(1), text="compare")
    inputs = processor.apply_chat_template(rows, tokenize=True, add_generation_prompt=True)
    options = dict(max_new_tokens=6, do_sample=False, gaze={"top_k": 2}, return_gaze=True)
    cached, uncached = (model.generate(**inputs, **options, use_cache=use) for use in (True, False))
    assert torch.equal(cached.sequences, uncached.sequences)
    assert torch.equal(cached.gaze.regions, uncached.gaze.regions)


def test_a_name_that_nobody_registered():
    with pytest.raises(ValueError, match="register_descriptor"):
        GazeConfig(descriptor="mean_and_peak")


def test_a_name_that_is_taken(toy):
    for name in (toy.name, "mean", ""):
        with pytest.raises(ValueError, match="name of its own"):
            register_descriptor(type("Again", (type(toy),), {"name": name})())


def test_a_method_that_is_missing():
    class Half(RegionDescriptor):
        name = "half"

        def describe(self, keys, region, num_regions): ...

    with pytest.raises(ValueError, match="no method score"):
        register_descriptor(Half())
    assert "half" not in DESCRIPTORS
