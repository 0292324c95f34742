"""Softmax weights of the last query, beside every backend: those of the oracle in float64."""

import dataclasses

import pytest
import torch

from cambrian_gaze.attention import GazeRecorder, WeightRecorder, attend
from cambrian_gaze.gaze.config import RegionBudget
from cambrian_gaze.gaze.layout import CONTEXT, TEXT, VISUAL
from cambrian_gaze.gaze.oracle import oracle_keys, oracle_selection
from tests._layouts import draw_case, draw_tensors
from tests.attention._decode import DIM as STEP_DIM
from tests.attention._decode import GRANULARITY, GROUPS, decode, step
from tests.attention._run import CPU_BACKENDS, DIM, SCALING, run

EVERY_BACKEND = pytest.mark.parametrize("backend", CPU_BACKENDS)


def drawn(seed):
    return draw_case(seed, dense_layers=(1,), head_granularity=("q_head", "kv_group")[seed % 2])


def weights_of(q, k, layout, config, layer=0):
    """[H] dicts of each row, {token: weight} of its last query, by the oracle."""
    selected = oracle_selection(q, k, layout, config, scaling=SCALING, layer=layer)
    rows = []
    for b in range(len(q)):
        heads = []
        for h in range(q.shape[1]):
            seen = oracle_keys(layout, config, b, selected[b][h])[-1]
            keys = k[b, h // (q.shape[1] // k.shape[1]), seen].double()
            weight = torch.softmax(keys @ q[b, h, -1].double() * SCALING, 0).tolist() if seen else []
            heads.append(dict(zip(seen, weight, strict=True)))
        rows.append(heads)
    return rows


def check(got, want, layout, regions, tolerance=1e-9):
    """A `LayerWeights` against `weights_of`, each number by a loop."""
    role, region = layout.role.tolist(), layout.region.tolist()
    for b, heads in enumerate(want):
        places = sorted(
            (j for j in range(len(role[b])) if role[b][j] == VISUAL), key=layout.index[b].tolist().__getitem__
        )
        visual = [sum(head.get(j, 0.0) for head in heads) / len(heads) for j in places]
        visual += [0.0] * (got.visual.shape[1] - len(places))
        assert got.visual[b].tolist() == pytest.approx(visual, abs=tolerance)
        for h, head in enumerate(heads):
            chosen = regions[b, h * regions.shape[1] // len(heads)].tolist()
            inside = [
                sum(w for j, w in head.items() if role[b][j] == VISUAL and region[b][j] == r) if r >= 0 else 0.0
                for r in chosen
            ]
            assert got.inside[b, h].tolist() == pytest.approx(inside, abs=tolerance)
            by_role = [sum(w for j, w in head.items() if role[b][j] == of) for of in (VISUAL, CONTEXT, TEXT)]
            assert got.by_role[b, h].tolist() == pytest.approx(by_role, abs=tolerance)
            assert sum(by_role) == pytest.approx(1.0 if head else 0.0)


@EVERY_BACKEND
@pytest.mark.parametrize("seed", range(10))
def test_equal_the_oracles(backend, seed):
    """Images, videos, packs, padding, several query heads per KV head, both granularities, any budget."""
    case = drawn(seed)
    config, layout = dataclasses.replace(case.config, backend=backend), case.batch.layout()
    q, k, v = draw_tensors(case, dim=DIM, scaling=SCALING)
    for layer in (0, 1):
        recorder = GazeRecorder(last_only=True, weights=WeightRecorder())
        out = run(q, k, v, layout, config, layer=layer, recorder=recorder)
        assert torch.equal(out, run(q, k, v, layout, config, layer=layer, recorder=GazeRecorder(last_only=True)))
        want = weights_of(q, k, layout, config, layer)
        check(recorder.weights.layers[layer], want, layout, recorder.layers[layer].regions)


@EVERY_BACKEND
@pytest.mark.parametrize("seed", range(6))
def test_dense_weights_equal_a_softmax_over_every_visual_token_that_the_query_may_see(backend, seed):
    case = drawn(seed)
    config, layout = dataclasses.replace(case.config, backend=backend), case.batch.layout()
    q, k, v = draw_tensors(case, dim=DIM, scaling=SCALING)
    recorder = GazeRecorder(last_only=True, weights=WeightRecorder(dense={}))
    run(q, k, v, layout, config, recorder=recorder)
    got, everything = recorder.weights.dense[0], list(range(layout.num_regions))
    for b in range(len(q)):
        seen = oracle_keys(layout, config, b, [everything] * layout.shape[1])[-1]
        index = layout.index[b].tolist()
        places = sorted((j for j in range(len(index)) if layout.role[b, j] == VISUAL), key=index.__getitem__)
        for h in range(q.shape[1]):
            mine = [j for j in places if j in seen]
            logits = k[b, h // (q.shape[1] // k.shape[1]), mine].double() @ q[b, h, -1].double() * SCALING
            weight = dict(zip(mine, torch.softmax(logits, 0).tolist(), strict=True))
            want = [weight.get(j, 0.0) for j in places] + [0.0] * (got.shape[2] - len(places))
            assert got[b, h].tolist() == pytest.approx(want, abs=1e-9)


@GRANULARITY
@pytest.mark.parametrize("heads", [2, 8])
def test_dense_weights_of_a_decoding_step(granularity, heads, way):
    q, ctx = step(granularity, heads, torch.float64, image=RegionBudget((1, 2, 2), top_k=1))
    ctx.recorder = GazeRecorder(weights=WeightRecorder(dense={}))
    attend(q, None, None, ctx, layer=0, scaling=0.25)
    got, layer, layout = ctx.recorder.weights.dense[0], ctx.cache.layers[0], ctx.cache.key_layout()
    keys = layer.page_keys.flatten(2, 3)
    for b in range(len(q)):
        places = [j for j in range(keys.shape[2]) if layout.role[b, j] == VISUAL]
        places.sort(key=layout.index[b].tolist().__getitem__)
        for h in range(heads):
            want = torch.softmax(keys[b, h * GROUPS // heads, places] @ q[b, h, 0] * 0.25, 0).tolist()
            assert got[b, h].tolist() == pytest.approx(want + [0.0] * (got.shape[2] - len(want)), abs=1e-12)


def test_the_cases_hold_what_they_are_for():
    cases = [drawn(seed) for seed in range(10)]
    layouts = [case.batch.layout() for case in cases]
    assert {case.config.head_granularity for case in cases} == {"q_head", "kv_group"}
    assert any(case.heads > case.kv_heads for case in cases) and any(case.config.video for case in cases)
    assert any((layout.role[:, -1] == TEXT).all() and layout.num_regions > 2 for layout in layouts)


@GRANULARITY
@pytest.mark.parametrize("heads", [2, 8])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)]
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image": RegionBudget((1, 3, 3), top_k=1)},
        {"image": RegionBudget((1, 2, 2), top_k=99)},
        {"image": RegionBudget((1, 2, 2))},
        {"context_visible": False},
        {"dense_layers": (0,)},
    ],
    ids=str,
)
def test_of_a_decoding_step(granularity, heads, dtype, tolerance, options, way, monkeypatch):
    """Read off the pages, of rows of unequal length, one of them without a picture. What nobody chose is not read."""
    q, ctx = step(granularity, heads, dtype, **options)
    ctx.recorder = GazeRecorder()
    plain = decode(q, ctx)
    ctx.recorder = GazeRecorder(weights=WeightRecorder())
    out = attend(q, None, None, ctx, layer=0, scaling=0.25)
    assert torch.equal(out, plain)
    got, regions = ctx.recorder.weights.layers[0], ctx.recorder.layers[0].regions
    layer, layout = ctx.cache.layers[0], ctx.cache.key_layout()
    keys = torch.cat([layer.page_keys.flatten(2, 3), layer.text_context_keys], 2).double()
    seen = (layout.role == TEXT) | ((layout.role == CONTEXT) & ctx.config.context_visible)
    want = []
    for b in range(len(q)):
        rows = []
        for h in range(heads):
            mine = regions[b, h * regions.shape[1] // heads].tolist()
            if options.get("dense_layers"):
                mine = list(range(99))
            at = [
                j
                for j in range(layout.shape[1])
                if seen[b, j] or (layout.role[b, j] == VISUAL and int(layout.region[b, j]) in mine)
            ]
            weight = torch.softmax(keys[b, h * GROUPS // heads, at] @ q[b, h, 0].double() * 0.25, 0)
            rows.append(dict(zip(at, weight.tolist(), strict=True)))
        want.append(rows)
    check(got, want, layout, regions, tolerance)
    assert q.shape[-1] == STEP_DIM and (got.visual[:2].sum(1) > 0).all()


@GRANULARITY
def test_pages_that_nobody_chose_are_not_read(granularity):
    found = []
    for spoilt in (False, True):
        q, ctx = step(granularity, image=RegionBudget((1, 2, 2), top_k=5))
        ctx.recorder = GazeRecorder(weights=WeightRecorder())
        if spoilt:
            layer, chosen = ctx.cache.layers[0], found[0][1]
            for b in range(2):
                for g in range(GROUPS):
                    mine = chosen[b].view(GROUPS, -1)[g]
                    unread = torch.ones(layer.page_keys.shape[2], dtype=torch.bool)
                    unread[mine[mine >= 0]] = False
                    layer.page_keys[b, g, unread] = torch.nan
        attend(q, None, None, ctx, layer=0, scaling=0.25)
        found.append((ctx.recorder.weights.layers[0], ctx.recorder.layers[0].regions))
    assert all(torch.equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))
