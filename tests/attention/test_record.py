"""What a run reports as attended, against the oracle's key lists and the cost model."""

import dataclasses

import pytest
import torch

from cambrian_gaze.attention import GazeRecorder
from cambrian_gaze.attention.record import Counts
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.cost import attended_visual
from cambrian_gaze.gaze.layout import CONTEXT, TEXT, VISUAL
from cambrian_gaze.gaze.oracle import oracle_keys
from tests._layouts import build
from tests.attention._run import CPU_BACKENDS, DIM, SCALING, reference, run


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("seed", range(24))
def test_counts_equal_the_keys_of_the_oracle(backend, seed):
    case, layout, tensors, _, _, selected = reference(seed)
    recorder = GazeRecorder()
    run(*tensors, layout, dataclasses.replace(case.config, backend=backend), recorder=recorder)
    last, stats = recorder.layers[0], recorder.stats()
    sums = {VISUAL: 0, CONTEXT: 0, "before": 0, "kept": 0}
    queries = 0
    for b in range(layout.shape[0]):
        role, sample = layout.role[b].tolist(), layout.sample[b].tolist()
        for h in range(case.heads):
            for i, keys in enumerate(oracle_keys(layout, case.config, b, selected[b][h])):
                count = {kind: sum(role[j] == kind for j in keys) for kind in (VISUAL, CONTEXT, TEXT)}
                if i == layout.shape[1] - 1 and role[i] == TEXT:
                    counted = [x[b, h].item() for x in (last.visual, last.context, last.text)]
                    assert counted == list(count.values())
                    regions = last.regions[b, h * last.regions.shape[1] // case.heads].tolist()
                    assert sorted(g for g in regions if g >= 0) == selected[b][h][i]
                before = sum(role[j] == VISUAL and sample[j] == sample[i] for j in range(i))
                if role[i] == TEXT and before:
                    queries += 1
                    sums[VISUAL] += count[VISUAL]
                    sums[CONTEXT] += count[CONTEXT]
                    sums["before"] += before
                    sums["kept"] += len(selected[b][h][i])
    got = (stats.attended_visual, stats.attended_context, stats.visible_visual, stats.k)
    assert got == pytest.approx([value / queries if queries else 0.0 for value in sums.values()])


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(
    ("grid", "size", "k"), [((1, 24, 24), (1, 6, 6), 2), ((1, 12, 12), (1, 3, 3), 6), ((4, 6, 6), (1, 3, 3), 5)]
)
@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
def test_counts_equal_the_cost_model(backend, grid, size, k, granularity):
    config = GazeConfig(image=RegionBudget(size, top_k=k), head_granularity=granularity, backend=backend)
    layout = build([[[("text", (2,)), ("video" if grid[0] > 1 else "image", grid), ("text", (2,))]]], config).layout()
    generator = torch.Generator().manual_seed(0)
    q, key, v = (torch.randn(1, n, layout.shape[1], DIM, generator=generator) for n in (4, 2, 2))
    recorder = GazeRecorder()
    run(q, key, v, layout, config, recorder=recorder)
    cost, stats = attended_visual([grid], config), recorder.stats()
    assert recorder.layers[0].visual.tolist() == [[cost.selected] * 4]
    assert recorder.layers[0].context.tolist() == [[cost.context] * 4]
    assert (stats.attended_visual, stats.attended_context, stats.k) == (cost.selected, cost.context, k)
    assert stats.visible_visual == cost.of and stats.share == pytest.approx(cost.share)


def test_spread_of_choices():
    """Two rows of four regions: one whose queries always choose the same, one whose queries choose all alike; a third
    has a single region and does not count."""
    regions = torch.tensor([[[[2], [2], [2], [2]]], [[[0], [1], [2], [3]]], [[[0], [0], [0], [0]]]])
    counts = torch.ones(3, 1, 4, dtype=torch.int64)
    looking = torch.ones(3, 4, dtype=torch.bool)
    offered = torch.tensor([[True] * 4, [True] * 4, [True, False, False, False]])
    recorder = GazeRecorder(num_regions=4, routes=lambda layer: layer == 0)
    recorder.record(0, regions, Counts(counts, counts, counts, counts[:, 0], looking))
    recorder.record(1, regions, Counts(counts, counts, counts, counts[:, 0], looking))
    assert list(recorder.usage) == [0]
    stats = recorder.stats(offered)
    assert stats.routing_entropy == pytest.approx((0 + 1) / 2)
    assert stats.region_coverage == pytest.approx((1 / 4 + 1) / 2)
    assert recorder.stats().routing_entropy is None


@pytest.mark.parametrize("backend", ["masked", "flex"])
def test_mass_inside_the_chosen_regions_is_that_of_dense_attention(backend):
    """Against a softmax over all visual keys before each query."""
    config = GazeConfig(image=RegionBudget((1, 2, 2), top_k=2), backend=backend)
    layout = build([[[("text", (2,)), ("image", (1, 4, 4)), ("text", (3,))]]], config).layout()
    generator = torch.Generator().manual_seed(0)
    q, key, v = (torch.randn(1, n, layout.shape[1], DIM, generator=generator) for n in (4, 2, 2))
    mass, recorder = [], GazeRecorder()
    run(q, key, v, layout, config, recorder=recorder, mass=mass)
    inside, asked = mass[0].tolist()
    visual = layout.role[0] == VISUAL
    routing = (layout.role[0] == TEXT) & (layout.index[0] > layout.index[0][visual].max())
    logits = q[0][:, routing].double() @ key[0].repeat_interleave(2, dim=0)[:, visual].double().transpose(-1, -2)
    shares = (logits * SCALING).softmax(-1)
    assert asked == shares.shape[0] * shares.shape[1]
    last = sum(
        shares[h, -1][torch.isin(layout.region[0][visual], recorder.layers[0].regions[0, h])].sum() for h in range(4)
    )
    assert 0 < last / 4 < 1
    run(q[:, :, -1:].expand_as(q).contiguous(), key, v, layout, config, mass=mass)
    assert (mass[1][0] / mass[1][1]).item() == pytest.approx((last / 4).item(), rel=1e-5)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dense_layers", [(), (0,)])
def test_a_last_token_of_padding_attends_to_nothing(backend, dense_layers):
    config = GazeConfig(
        image=RegionBudget((1, 2, 2), top_k=2), num_context_tokens=1, backend=backend, dense_layers=dense_layers
    )
    row = [("image", (1, 4, 4)), ("text", (3,))]
    layout = build([[row], [row[:1]]], config).layout()
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, layout.shape[1], DIM, generator=generator) for n in (4, 2, 2))
    recorder = GazeRecorder()
    run(q, k, v, layout, config, recorder=recorder)
    last = recorder.layers[0]
    assert last.text[0].eq(3).all()
    assert not any(x[1].any() for x in (last.visual, last.context, last.text))
