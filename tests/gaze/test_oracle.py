"""The oracle itself: against the plain formula, by hand, and by finite differences."""

import dataclasses
import math

import pytest
import torch

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.layout import PAD, TEXT
from cambrian_gaze.gaze.oracle import oracle_attention, oracle_selection
from tests._layouts import build, draw_case, draw_tensors

ROW = [("text", (1,)), ("image", (1, 2, 2)), ("text", (2,))]


def test_one_query_by_hand():
    """Equations (2)-(4) on numbers small enough for paper: |C|=1, four regions of one token, K=1."""
    config = GazeConfig(image=RegionBudget((1, 1, 1), top_k=1), num_context_tokens=1)
    layout = build([[ROW]], config).layout()
    k = torch.tensor([0.5, 1.0, 3.0, 2.0, -1.0, 0.0, 0.25, 1.5]).view(1, 1, 8, 1)
    v = torch.arange(8.0).view(1, 1, 8, 1)
    q = torch.ones(1, 1, 8, 1)
    out, selected = oracle_attention(q, k, v, layout, config, scaling=1.0)
    assert selected[0][0] == [[], None, None, None, None, None, [1], [1]]
    keys = [0, 2, 5, 6, 7]  # text, the token of region 1, the context token, text, itself
    weights = [math.exp(k[0, 0, j, 0]) for j in keys]
    want = sum(w * j for w, j in zip(weights, keys, strict=True)) / sum(weights)
    assert out[0, 0, 7, 0].item() == pytest.approx(want, abs=1e-12)
    assert out[0, 0, 0, 0] == 0.0
    context = [math.exp(k[0, 0, j, 0]) for j in (1, 2, 3, 4, 5)]
    assert out[0, 0, 5, 0].item() == pytest.approx(
        sum(w * j for w, j in zip(context, (1, 2, 3, 4, 5), strict=True)) / sum(context), abs=1e-12
    )
    flipped, selected = oracle_attention(-q, k, v, layout, config, scaling=1.0)
    assert selected[0][0][7] == [3], "another query, another region"


def test_each_head_selects_by_itself_and_a_group_together():
    config = GazeConfig(image=RegionBudget((1, 1, 1), top_k=1), num_context_tokens=0)
    layout = build([[ROW]], config).layout()
    k = torch.tensor([0.0, 1.0, 3.0, 2.0, -1.0, 0.0, 0.0]).view(1, 1, 7, 1)
    q = torch.tensor([1.0, -3.0]).view(1, 2, 1, 1).expand(1, 2, 7, 1)
    own = oracle_selection(q, k, layout, config, scaling=1.0)
    assert [head[6] for head in own[0]] == [[1], [3]]
    shared = oracle_selection(q, k, layout, dataclasses.replace(config, head_granularity="kv_group"), scaling=1.0)
    assert [head[6] for head in shared[0]] == [[3], [3]]


@pytest.mark.parametrize("seed", range(6))
def test_keeping_everything_is_causal_attention(seed):
    """|C|=0, K=all, one sample a row: equation (1), scaled dot-product attention under a causal mask."""
    case = draw_case(seed, image=RegionBudget((1, 3, 3)), video=None, num_context_tokens=0, visual_queries="causal")
    layout = case.batch.layout()
    q, k, v = draw_tensors(case)
    out, _ = oracle_attention(q, k, v, layout, case.config, scaling=0.3)
    k, v = (x.repeat_interleave(case.heads // case.kv_heads, 1) for x in (k, v))
    same = layout.sample[:, None, :, None] == layout.sample[:, None, None, :]
    causal = torch.ones(layout.shape[1], layout.shape[1]).tril().bool()
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=same & causal, scale=0.3)
    real = (layout.role != PAD)[:, None].expand(out.shape[:3])
    assert torch.allclose(out[real], want[real], atol=1e-12)
    assert (out[~real] == 0).all()


@pytest.mark.parametrize("layer", [0, 1])
def test_dense_layers_do_not_route(layer):
    config = GazeConfig(image=RegionBudget((1, 1, 1), top_k=1), dense_layers=(1,))
    case = draw_case(0, **{f.name: getattr(config, f.name) for f in dataclasses.fields(config)})
    layout = case.batch.layout()
    q, k, v = draw_tensors(case)
    _, selected = oracle_attention(q, k, v, layout, config, scaling=1.0, layer=layer)
    routes = any(pool is not None for row in selected for head in row for pool in head)
    assert routes == (layer == 0)


def test_an_unrouted_prompt_attends_densely():
    config = GazeConfig(image=RegionBudget((1, 1, 1), top_k=1), num_context_tokens=0)
    layout = build([[ROW]], config).layout()
    layout = dataclasses.replace(layout, routed=layout.index == 6)
    q = k = torch.randn(1, 1, 7, 2, generator=torch.Generator().manual_seed(0))
    _, selected = oracle_attention(q, k, k, layout, config, scaling=1.0)
    assert [pool is None for pool in selected[0][0]] == [True] * 6 + [False]


@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
def test_gradients_by_finite_differences(granularity):
    config = GazeConfig(
        image=RegionBudget((1, 1, 2), top_k=1), num_context_tokens=1, head_granularity=granularity, descriptor="mean"
    )
    layout = build([[[("text", (1,)), ("image", (1, 2, 2)), ("text", (2,))]]], config).layout()
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, n, 8, 2, generator=generator, dtype=torch.float64) for n in (2, 1, 1))
    for x in (q, k, v):
        x.requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: oracle_attention(*x, layout, config, scaling=0.7)[0], (q, k, v))


def test_regions_left_out_get_no_gradient():
    config = GazeConfig(image=RegionBudget((1, 1, 1), top_k=1), num_context_tokens=0)
    layout = build([[ROW]], config).layout()
    q, k, v = (torch.randn(1, 1, 7, 2, generator=torch.Generator().manual_seed(n)) for n in range(3))
    k, v = k.requires_grad_(), v.requires_grad_()
    out, selected = oracle_attention(q, k, v, layout, config, scaling=1.0)
    out[0, 0, 6].sum().backward()
    (chosen,) = selected[0][0][6]
    touched = [j for j in range(7) if v.grad[0, 0, j].abs().sum() > 0]
    assert touched == [0, 1 + chosen, 5, 6] and layout.role[0, 5] == TEXT
