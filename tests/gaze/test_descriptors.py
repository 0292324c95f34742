"""Descriptors and scores against the oracle's loops."""

import math

import pytest
import torch

from cambrian_gaze.gaze.descriptors import attention_mass_scores, describe, region_scores
from cambrian_gaze.gaze.oracle import oracle_scores
from cambrian_gaze.gaze.visibility import regions_offered
from tests._layouts import draw_case, draw_tensors

DIM = 8


def fast_scores(q, k, layout, config, scaling):
    """Scores [B, H or G, Q, R] by the functions under test."""
    if config.descriptor == "oracle":
        return attention_mass_scores(q, k, layout.region, layout.num_regions, scaling, config.head_granularity)
    descriptors = describe(k, layout.region, layout.num_regions, config.descriptor)
    return region_scores(q, descriptors, config.descriptor, config.head_granularity)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(24))
def test_scores_equal_the_oracle(seed, dtype):
    case = draw_case(seed)
    layout, config = case.batch.layout(), case.config
    q, k, _ = draw_tensors(case, dtype=dtype, dim=DIM, margin=0.0)
    scores = fast_scores(q, k, layout, config, DIM**-0.5)
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32), "scores are kept in fp32"
    offered = regions_offered(layout, config)
    repeats = case.heads // scores.shape[1]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    for b, heads in enumerate(oracle_scores(q, k, layout, config, scaling=DIM**-0.5)):
        for h, queries in enumerate(heads):
            for i, pool in enumerate(queries):
                assert sorted(pool or {}) == offered[b, i].nonzero().flatten().tolist()
                for g, score in (pool or {}).items():
                    assert scores[b, h // repeats, i, g].item() == pytest.approx(score, abs=tolerance, rel=tolerance)


@pytest.mark.parametrize("kind", ["mean", "max", "minmax"])
def test_descriptors_by_hand(kind):
    keys = torch.tensor([[[[1.0, -2.0], [3.0, 0.0], [5.0, 5.0], [9.0, 9.0]]]])
    region = torch.tensor([[1, 1, 2, -1]])
    want = {
        "mean": [[0.0, 0.0], [2.0, -1.0], [5.0, 5.0], [0.0, 0.0]],
        "max": [[0.0, 0.0], [3.0, 0.0], [5.0, 5.0], [0.0, 0.0]],
        "minmax": [[0.0] * 4, [1.0, -2.0, 3.0, 0.0], [5.0] * 4, [0.0] * 4],
    }[kind]
    assert describe(keys, region, 4, kind)[0, 0].tolist() == want


@pytest.mark.parametrize("kind", ["mean", "max", "minmax"])
def test_descriptors_of_bf16_keys_are_fp32(kind):
    keys = torch.randn(1, 2, 36, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    region = torch.arange(36)[None] // 18
    got = describe(keys, region, 2, kind)
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), describe(keys.double(), region, 2, kind), rtol=1e-6, atol=1e-6)


def test_minmax_bounds_every_key_of_the_region():
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, 12, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    region = torch.arange(12)[None] // 4
    bound = region_scores(q, describe(k, region, 3, "minmax"), "minmax", "q_head")
    best = (q @ k.transpose(-1, -2)).view(1, 2, 12, 3, 4).amax(-1)
    assert (bound >= best - 1e-12).all()


def test_the_oracle_descriptor_orders_as_attention_mass():
    case = draw_case(9)
    layout, config = case.batch.layout(), case.config
    assert config.descriptor == "oracle"
    q, k, _ = draw_tensors(case, dim=DIM)
    scores = attention_mass_scores(q, k, layout.region, layout.num_regions, DIM**-0.5, "q_head")
    k = k.repeat_interleave(case.heads // case.kv_heads, 1)
    logits = q @ k.transpose(-1, -2) * DIM**-0.5
    for g in range(layout.num_regions):
        for b in range(layout.shape[0]):
            of_region = layout.region[b] == g
            if of_region.any():
                share = logits[b].softmax(-1)[..., of_region].sum(-1)
                rest = scores[b, :, :, g] - logits[b].logsumexp(-1)
                assert torch.allclose(rest, share.log())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_oracle_descriptor_of_a_region_far_below_the_peak(dtype):
    """One key elsewhere with a logit far above (an attention sink) must not flatten the order of the regions."""
    keys = torch.tensor([[[[2000.0], [1.0], [2.0], [3.0]]]], dtype=dtype)
    q = torch.ones(1, 1, 4, 1, dtype=dtype)
    region = torch.tensor([[-1, 0, 1, 2]])
    scores = attention_mass_scores(q, keys, region, 3, 1.0, "q_head")
    assert scores[0, 0, 3].tolist() == pytest.approx([1.0, 2.0, 3.0], abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_scores_carry_no_gradient(seed):
    case = draw_case(seed * 3)
    layout, config = case.batch.layout(), case.config
    q, k, _ = draw_tensors(case, margin=0.0)
    scores = fast_scores(q.requires_grad_(), k.requires_grad_(), layout, config, 1.0)
    assert not scores.requires_grad and not math.isnan(scores.sum())
