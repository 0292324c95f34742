"""Each policy's choice against the few lines that its paper's rule comes to."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from cambrian_gaze.attention.policy.policy import Question, VisualTokens, top
from cambrian_gaze.baselines.registry import POLICIES, make_policy, options_of

GROUPS, HEADS, FRAMES, EACH, DIM = 2, 4, 6, 8, 5
TOKENS = FRAMES * EACH


def tokens(seed=0, layer=1, layers=3, retained=None, count=TOKENS):
    g = torch.Generator().manual_seed(seed)
    place = torch.arange(count)
    return VisualTokens(
        row=0,
        layer=layer,
        layers=layers,
        keys=torch.randn(GROUPS, count, DIM, generator=g),
        values=torch.randn(GROUPS, count, DIM, generator=g),
        bare_keys=torch.randn(GROUPS, count, DIM, generator=g),
        unit=place // EACH,
        region=place // EACH * 2 + place % EACH // 4,
        retained=torch.ones(GROUPS, count, dtype=torch.bool) if retained is None else retained,
        memory={},
    )


def question(seed=1, length=3):
    g = torch.Generator().manual_seed(seed)
    weights = torch.randn(HEADS, length, TOKENS + 4, generator=g).softmax(-1)[..., :TOKENS]
    shape = HEADS, length, DIM
    return Question(torch.randn(shape, generator=g), torch.randn(shape, generator=g), weights)


def names(mask):
    return [set(row.nonzero().flatten().tolist()) for row in mask]


def best(scores, count):
    return set(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])


def test_top_breaks_ties_by_place() -> None:
    assert names(top(torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]]), 2)) == [{1, 2}]


def test_uniform_spaces_evenly() -> None:
    for budget in (1, 5, 7, 16, 47, 48, 60):
        kept = names(make_policy("uniform", {"budget": budget}).on_text(tokens()))
        assert kept == [{i * TOKENS // budget for i in range(budget)} if budget < TOKENS else set(range(TOKENS))] * 2
    held = torch.rand(GROUPS, TOKENS, generator=torch.Generator().manual_seed(3)).argsort(1) < 20
    for row, kept in enumerate(names(make_policy("uniform", {"budget": 6}).on_text(tokens(retained=held)))):
        there = held[row].nonzero().flatten().tolist()
        assert kept == {there[i * 20 // 6] for i in range(6)}


def test_recent_is_a_window() -> None:
    assert names(make_policy("recent", {"budget": 8}).on_text(tokens())) == [set(range(40, 48))] * 2
    held = torch.arange(TOKENS).expand(GROUPS, -1) % 3 == 0
    assert names(make_policy("recent", {"budget": 3}).on_text(tokens(retained=held))) == [{39, 42, 45}] * 2


def test_random_draws_per_layer_head_and_seed_and_no_more_than_that() -> None:
    policy = make_policy("random", {"budget": 8})
    kept = names(policy.on_text(tokens(seed=0)))
    assert [len(row) for row in kept] == [8, 8] and kept[0] != kept[1]
    assert kept == names(policy.on_text(tokens(seed=9)))
    assert kept != names(policy.on_text(tokens(layer=2)))
    assert kept != names(make_policy("random", {"budget": 8, "seed": 1}).on_text(tokens()))
    # What was drawn for a token does not change when more come: a stream keeps a sample of all.
    early = policy.on_text(tokens(count=40))
    held = torch.cat([early, torch.ones(GROUPS, 8, dtype=torch.bool)], dim=1)
    assert names(policy.on_text(tokens(retained=held)) & held) == kept


def test_snapkv_sums_the_questions_attention() -> None:
    asked = question()
    for options, weights in (({}, asked.attention), ({"window": 2}, asked.attention[:, 1:])):
        kept = names(make_policy("snapkv", {"budget": 8} | options).on_question(tokens(), asked))
        for group in range(GROUPS):
            mine = weights[2 * group : 2 * group + 2]
            assert kept[group] == best([float(mine[..., i].mean()) for i in range(TOKENS)], 8)
    pooled = names(make_policy("snapkv", {"budget": 8, "kernel": 3}).on_question(tokens(), asked))
    mean = [float(asked.attention[:2, :, i].mean()) for i in range(TOKENS)]
    around = [sum(mean[max(0, i - 1) : i + 2]) for i in range(TOKENS)]
    assert pooled[0] == best(around, 8)


def test_static_gaze_ranks_regions_by_the_mean_query() -> None:
    asked, shown = question(), tokens()
    kept = names(make_policy("static_gaze", {"top_k": 2}).on_question(shown, asked))
    for head in range(HEADS):
        query, keys = asked.queries[head].mean(0), shown.keys[head // 2]
        scores = [float(query @ keys[shown.region == r].mean(0)) for r in range(2 * FRAMES)]
        assert kept[head] == {i for i in range(TOKENS) if int(shown.region[i]) in best(scores, 2)}


def test_quest_ranks_pages_by_their_bound() -> None:
    shown, query = tokens(), question().queries[:, -1]
    kept = names(make_policy("quest", {"top_k": 3}).select(shown, query))
    for head in range(HEADS):
        scores = []
        for r in range(2 * FRAMES):
            page = shown.keys[head // 2][shown.region == r]
            bounds = (max(q * page[:, d].min(), q * page[:, d].max()) for d, q in enumerate(query[head]))
            scores.append(float(sum(bounds)))
        assert kept[head] == {i for i in range(TOKENS) if int(shown.region[i]) in best(scores, 3)}
    assert make_policy("quest", {"top_k": 3, "dense_layers": 2}).select(shown, query) is None


@pytest.mark.parametrize("block", ["unit", "region"])
def test_rekv_joins_the_heads(block: str) -> None:
    asked, shown = question(), tokens()
    kept = names(make_policy("rekv", {"top_k": 2, "block": block}).on_question(shown, asked))
    of = getattr(shown, block)
    scores = []
    for b in range(int(of.max()) + 1):
        joined = torch.cat([shown.bare_keys[head // 2][of == b].mean(0) for head in range(HEADS)])
        scores.append(float(joined @ torch.cat([asked.bare_queries[head].mean(0) for head in range(HEADS)])))
    assert kept == [{i for i in range(TOKENS) if int(of[i]) in best(scores, 2)}] * GROUPS


def test_fastv_ranks_by_the_last_tokens_attention_in_the_layer_before() -> None:
    policy, asked, memory = make_policy("fastv", {"layer": 2, "ratio": 0.75}), question(), {}
    before, at = (tokens(layer=layer, layers=5) for layer in (1, 2))
    for each in (before, at):
        object.__setattr__(each, "memory", memory)
    assert policy.on_question(tokens(layer=0), question(7)) is None and policy.on_question(before, asked) is None
    scores = [float(asked.attention[:, -1, i].mean()) for i in range(TOKENS)]
    assert names(policy.on_question(at, question(5))) == [best(scores, 12)] * GROUPS


@pytest.mark.parametrize("tar_ratio", [0.5, 0.75, 0.0])
def test_infinipot_v_compresses_a_block(tar_ratio: float) -> None:
    policy = make_policy("infinipot_v", {"block": 6, "keep": 4, "query_ratio": 0.34, "tar_ratio": tar_ratio})
    shown = tokens()
    assert policy.on_unit(tokens(count=40)) is None and policy.on_text(shown) is None
    kept = names(policy.on_unit(shown))
    for group in range(GROUPS):
        keys = shown.keys[group]
        forced = set()
        if tar_ratio:
            scores = []
            for i in range(4 * EACH):
                recent = [keys[f * EACH + i % EACH] for f in (4, 5)]
                scores.append(-sum(float(cosine_similarity(keys[i], key, dim=0)) for key in recent) / 2)
            forced = set(range(32, 48)) | best(scores, int(tar_ratio * 32) - 16)
        norms = [math.inf if i in forced else float(shown.values[group, i].norm()) for i in range(TOKENS)]
        assert kept[group] == best(norms, 32)


def test_infinipot_v_goes_on_with_what_is_left() -> None:
    policy = make_policy("infinipot_v", {"block": 5, "keep": 3, "query_ratio": 0.2})
    held = torch.ones(GROUPS, TOKENS, dtype=torch.bool)
    held[0, 8:16] = False
    held[1, :8] = False  # one frame less in memory, another one per head: five are left
    kept = policy.on_unit(tokens(retained=held))
    assert not (kept & ~held).any() and kept.sum(1).tolist() == [24, 24]
    shown = tokens()
    for group in range(GROUPS):
        of = held[group].nonzero().flatten()
        alone = policy.compress(shown.keys[group : group + 1, of], shown.values[group : group + 1, of], EACH)
        assert names(kept)[group] == set(of[alone[0]].tolist())


def test_infinipot_v_for_images_is_the_value_norm() -> None:
    shown = tokens()
    kept = names(make_policy("infinipot_v", {"budget": 8}).on_text(shown))
    assert kept == [best([float(v.norm()) for v in values], 8) for values in shown.values]


def test_hermes_scores() -> None:
    policy, layers = make_policy("hermes", {"budget": 8}), 10
    attention = [tuple(torch.rand(3, 30, generator=torch.Generator().manual_seed(n))) for n in range(layers)]
    assert [policy.kind(layer, layers) for layer in range(layers)] == ["short"] + ["middle"] * 6 + ["long"] * 3

    def spread(values):
        low, high = min(values), max(values)
        return [(v - low) / (high - low + 1e-6) for v in values]

    above = None
    for layer in reversed(range(layers)):
        local, whole, both = (spread(x.tolist()) for x in attention[layer])
        t = (layer - 1) / 6
        alpha, k, asked, gamma = (1, 20, local, 0.1) if layer == 0 else (1 - 0.9 * t, 20 - 19.5 * t, both, 0.3)
        if layer >= 7:
            alpha, k, asked, gamma = 0, 0.5, whole, 0.4
        recent = spread([math.exp(-k * (29 - i) / 29) for i in range(30)])
        mine = [(1 - alpha) * a + alpha * r for a, r in zip(asked, recent, strict=True)]
        if above is not None:
            mine = [(1 - gamma) * m + gamma * a for m, a in zip(mine, above, strict=True)]
        torch.testing.assert_close(policy.scores(attention)[layer], torch.tensor(mine), atol=1e-4, rtol=1e-4)
        above = mine


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("snapkw", {}, "did you mean 'snapkv'"),
        ("recent", {"buget": 8}, "no option 'buget'; did you mean 'budget'"),
        ("recent", {}, "needs budget"),
        ("recent", {"budget": 0}, "budget must be an integer of at least 1"),
        ("snapkv", {"budget": 8, "kernel": 2}, "kernel must be odd"),
        ("infinipot_v", {"block": 8, "keep": 8}, "keep must be below block"),
        ("infinipot_v", {"query_ratio": 0.5}, "lower query_ratio"),
        ("rekv", {"top_k": 1, "block": "page"}, "unit or region"),
        ("hermes", {"budget": 8, "token_ids": ()}, "no option 'token_ids'"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(name, options)


def test_names_and_options_round_trip() -> None:
    for name, policy in POLICIES.items():
        assert policy.name == name and policy.__doc__ and policy.__doc__ != policy.__mro__[1].__doc__
    made = make_policy("infinipot_v", {"budget": 72})
    told = options_of(made)
    assert make_policy(told.pop("name"), told) == made
