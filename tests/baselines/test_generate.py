"""Policies in `generate` and in calls with a cache: budgets as counted, steps against one pass, padding, leaks."""

import dataclasses

import pytest
import torch

from cambrian_gaze.attention.policy import layer as policy_layer
from cambrian_gaze.attention.policy.attention import PolicyAttention
from cambrian_gaze.attention.policy.policy import Shown
from cambrian_gaze.attention.policy.state import PolicyState
from cambrian_gaze.baselines.registry import POLICIES, make_policy
from cambrian_gaze.gaze.layout import VISUAL
from cambrian_gaze.models.cache.cache import GazeCache
from tests.baselines._policies import COMPRESSED, OPTIONS, encode, make_model, make_processor, noise

LAYERS, LENGTH = 3, 6
BLIND = [name for name, policy in POLICIES.items() if not policy.needs_question and name != "hermes"]
"""Policies that decide without the question, from the cache alone."""


BUDGETED = [name for name in POLICIES if name not in COMPRESSED]


def policy_of(name, processor, **options):
    policy = make_policy(name, OPTIONS[name] | options).with_tokenizer(processor.tokenizer)
    return dataclasses.replace(policy, grid=processor.grid_hw) if hasattr(policy, "grid") else policy


def answer(model, inputs, **options):
    length = {"min_new_tokens": LENGTH, "max_new_tokens": LENGTH, "do_sample": False}
    return model.generate(**inputs, **length, return_gaze=True, output_logits=True, **options)


def cache_of(model, policy, gaze=None):
    config = model.model.resolve_gaze(gaze)
    return GazeCache(config, PolicyState(policy, LAYERS, config))


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_seen_and_kept_is_what_the_budget_says(model, processor, batch, name: str) -> None:
    policy = policy_of(name, processor)
    output = answer(model, batch, policy=policy)
    for row, units in enumerate(((64,), (64, 64))):
        shown = Shown(units, (4,) * (16 * len(units)))
        for layer in range(LAYERS):
            least, most = policy.attends(shown, layer, LAYERS)
            seen = output.gaze.attended_visual[row, :, layer]
            assert least == most and (seen == most).all()
            assert (output.retained[row, layer] == policy.retains(shown, layer, LAYERS)).all()
            kept = COMPRESSED.get(name, (8, 8))[row]
            assert most == (shown.tokens if name == "fastv" and layer == 0 else kept)


@pytest.mark.parametrize("name", BUDGETED)
def test_a_budget_for_everything_is_dense(model, processor, batch, name: str) -> None:
    everything = {"top_k": 32, "budget": 128}
    policy = policy_of(name, processor, **{key: everything.get(key, value) for key, value in OPTIONS[name].items()})
    expected, found = answer(model, batch), answer(model, batch, policy=policy)
    for mine, dense in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(mine, dense, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", POLICIES)
def test_less_is_not_dense_and_padding_changes_nothing(model, processor, batch, name: str) -> None:
    policy = policy_of(name, processor)
    together, dense = answer(model, batch, policy=policy), answer(model, batch)
    alone = answer(model, encode(processor, (0, "read B3")), policy=policy)
    for mine, single in zip(together.logits, alone.logits, strict=True):
        torch.testing.assert_close(mine[:1], single, atol=2e-5, rtol=2e-5)
    assert (together.logits[1] - dense.logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["snapkv", "infinipot_v", "hermes", "recent", "fastv"])
def test_what_was_evicted_is_never_read_again(model, processor, name: str) -> None:
    policy, prompt = policy_of(name, processor), encode(processor, (0, "read B3"))
    if name == "hermes":
        policy = policy.on_input(model, dict(prompt))
    caches = [cache_of(model, policy) for _ in range(2)]
    with torch.no_grad():
        for cache in caches:
            model(**prompt, cache=cache, use_cache=True)
        for number, layer in enumerate(caches[1].layers):
            layout = caches[1].page_layout
            held = (
                caches[1]
                .policy.retained[number]
                .gather(2, layout.index.clamp(max=caches[1].length - 1)[:, None].expand(-1, 2, -1))
            )
            gone = (~held & (layout.role == VISUAL)[:, None]).unflatten(2, layer.page_keys.shape[2:4])
            assert gone.sum() == (0 if name == "fastv" and number == 0 else 2 * 56)
            for pages in (layer.page_keys, layer.page_values):
                pages[gone] = 1e4
        step = torch.tensor([[7]])
        plain, damaged = (model(input_ids=step, cache=cache, use_cache=True).logits for cache in caches)
    assert torch.equal(plain, damaged)


def pieces(inputs, bounds, images):
    """The prompt of one row in several calls, cut at `bounds`; `images`: how many of them each call brings."""
    taken = 0
    for start, stop, count in zip([0, *bounds], [*bounds, inputs["input_ids"].shape[1]], images, strict=True):
        part = {name: inputs[name][:, start:stop] for name in ("input_ids", "mm_token_type_ids")}
        if count:
            part |= {name: inputs[name][taken : taken + count] for name in ("pixel_values", "grid_thw")}
        taken += count
        yield part


@pytest.mark.parametrize("name", BLIND)
@pytest.mark.parametrize("context", [0, 4])
def test_one_call_several_calls_and_steps_agree(name: str, context: int) -> None:
    model, processor = make_model(context), make_processor(context)
    inputs = encode(processor, (0, "and this:", 1, "Read B3 and C1"))
    policy = policy_of(name, processor)
    visual = (inputs["mm_token_type_ids"][0] > 0).nonzero().flatten().tolist()
    first, end = visual[63 + context] + 1, visual[-1] + 1
    length = inputs["input_ids"].shape[1]
    steps = range(end + 1, length)
    cuts = [([], [2]), ([first, end], [1, 1, 0]), ([first + 2, end + 3], [1, 1, 0])]
    cuts += [([end, *steps], [2, *[0] * (len(steps) + 1)])]
    logits = []
    with torch.no_grad():
        for bounds, images in cuts:
            cache = cache_of(model, policy)
            parts = [model(**part, cache=cache, use_cache=True).logits for part in pieces(inputs, bounds, images)]
            logits.append(torch.cat(parts, dim=1))
    for found in logits[1:]:
        torch.testing.assert_close(found, logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", BLIND)
def test_a_later_picture_changes_nothing_before_it(model, processor, name: str) -> None:
    policy = policy_of(name, processor)
    inputs, other = (encode(processor, (0, "and this:", number, "Read B3")) for number in (1, 2))
    second = (inputs["mm_token_type_ids"][0] > 0).nonzero().flatten()[64]
    with torch.no_grad():
        found = [model(**x, cache=cache_of(model, policy), use_cache=True).logits for x in (inputs, other)]
    assert torch.equal(found[0][:, :second], found[1][:, :second])
    # Of two pictures `subsample` leaves the first.
    assert torch.equal(found[0][:, -1], found[1][:, -1]) == (name == "subsample")


@pytest.mark.parametrize("name", ["snapkv", "static_gaze", "rekv", "quest"])
def test_the_question_may_come_after_the_pictures(model, processor, name: str) -> None:
    inputs, policy = encode(processor, (0, 1, "read B3")), policy_of(name, processor)
    end = int((inputs["mm_token_type_ids"][0] > 0).nonzero()[-1]) + 1
    gaze = {"descriptor_keys": "pre_rope"} if policy.wants_bare_keys else None
    with torch.no_grad():
        whole = model(**inputs, cache=cache_of(model, policy, gaze), use_cache=True, gaze=gaze).logits[:, -1]
        cache = cache_of(model, policy, gaze)
        for part in pieces(inputs, [end], [2, 0]):
            logits = model(**part, cache=cache, use_cache=True, gaze=gaze).logits[:, -1]
    torch.testing.assert_close(logits, whole, atol=2e-5, rtol=2e-5)
    with pytest.raises(ValueError, match="has chosen by the question already"):
        model(input_ids=torch.tensor([[5, 6]]), cache=cache, use_cache=True, gaze=gaze)


@pytest.mark.parametrize("name", POLICIES)
def test_text_alone_is_answered_as_ever(model, processor, name: str) -> None:
    prompt = encode(processor, ("Say something",))
    expected, found = answer(model, prompt), answer(model, prompt, policy=policy_of(name, processor))
    torch.testing.assert_close(found.logits[0], expected.logits[0], atol=2e-5, rtol=2e-5)
    assert (found.gaze.attended_visual == 0).all() and (found.retained == 0).all()


def test_quest_is_gaze_with_another_descriptor(model, processor, batch) -> None:
    gaze = {"top_k": 2, "descriptor": "minmax", "route_prompt": False}
    expected = answer(model, batch, gaze=gaze)
    found = answer(model, batch, policy=policy_of("quest", processor))
    for mine, routed in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(mine, routed, atol=2e-5, rtol=2e-5)


def test_infinipot_v_streams_over_the_frames_of_a_video(model, processor) -> None:
    content = [{"type": "video", "video": [noise(n) for n in range(5)]}, {"type": "text", "text": "What happens?"}]
    inputs = processor.apply_chat_template(
        [[{"role": "user", "content": content}]], tokenize=True, add_generation_prompt=True
    )
    policy = make_policy("infinipot_v", {"block": 3, "keep": 2, "query_ratio": 0.34})
    output = answer(model, inputs, policy=policy)
    shown = Shown((64,) * 5, (4,) * 80)
    assert policy.retains(shown, 0, LAYERS) == 128
    assert (output.gaze.attended_visual == 128).all() and (output.retained == 128).all()


def test_beams_take_the_rows_decisions_along(model, processor, batch) -> None:
    policy = policy_of("snapkv", processor)
    output = model.generate(**batch, policy=policy, return_gaze=True, num_beams=2, max_new_tokens=4, do_sample=False)
    assert (output.gaze.attended_visual[output.gaze.attended_text > 0] == 8).all()
    with pytest.raises(ValueError, match="leave num_beams out"):
        model.generate(**batch, policy=policy_of("hermes", processor), num_beams=2, max_new_tokens=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gaze": {"top_k": 2, "descriptor": "minmax"}}, "by the mean of their keys"),
        ({"use_cache": False}, "leave use_cache=False out"),
        ({"gaze_offload": "1MiB"}, "a cache of its own"),
        ({"hidden_regions": torch.zeros(2, 16, dtype=torch.bool)}, "both hide"),
    ],
)
def test_what_does_not_go_together_is_refused(model, processor, batch, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(**batch, policy=policy_of("recent", processor), max_new_tokens=2, **options)


ROUTED = [{"top_k": 2}, {"top_k": 3, "head_granularity": "kv_group", "dense_layers": [1]}]
ROUTED += [{"top_k": 2, "route_prompt": False}]


@pytest.mark.parametrize("gaze", ROUTED)
def test_gaze_over_all_that_there_is_is_gaze(model, processor, batch, gaze: dict) -> None:
    policy = make_policy("recent", {"budget": 128})
    expected, found = answer(model, batch, gaze=gaze), answer(model, batch, gaze=gaze, policy=policy)
    for mine, routed in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(mine, routed, atol=2e-5, rtol=2e-5)
    for name in ("attended_visual", "attended_context", "attended_text"):
        assert torch.equal(getattr(found.gaze, name), getattr(expected.gaze, name))
    if "dense_layers" not in gaze:
        assert torch.equal(found.gaze.regions, expected.gaze.regions)


@pytest.mark.parametrize("name", [name for name in (*BLIND, "hermes") if name in BUDGETED])
def test_gaze_over_what_is_left(model, processor, batch, name: str) -> None:
    policy = policy_of(name, processor, budget=24)
    output = answer(model, batch, gaze={"top_k": 2}, policy=policy)
    assert (output.retained == 24).all()
    assert (output.gaze.attended_visual >= 2).all() and (output.gaze.attended_visual <= 8).all()
    alone = answer(model, encode(processor, (0, "read B3")), gaze={"top_k": 2}, policy=policy)
    for mine, single in zip(output.logits, alone.logits, strict=True):
        torch.testing.assert_close(mine[:1], single, atol=2e-5, rtol=2e-5)


def test_gaze_describes_regions_by_what_is_left_of_them(model, processor, monkeypatch) -> None:
    """Against a loop over heads and regions, in the layer's own keys and queries."""
    torch.manual_seed(0)
    inputs, gaze = encode(processor, (0, "read B3")), {"top_k": 2}
    cache = cache_of(model, make_policy("random", {"budget": 24}), gaze)
    seen = {}
    attend = PolicyAttention.attend

    def listen(self, q, k, v, ctx, layer, *options):
        seen[layer] = q
        return attend(self, q, k, v, ctx, layer, *options)

    monkeypatch.setattr(PolicyAttention, "attend", listen)
    with torch.no_grad():
        model(**inputs, cache=cache, use_cache=True, gaze=gaze)
        step = model(input_ids=torch.tensor([[7]]), cache=cache, use_cache=True, gaze=gaze, return_gaze=True)
    assert step.gaze.attended_visual < 8
    for number, layer in enumerate(cache.layers):
        held = cache.policy.retained[number][0][:, cache.page_layout.index[0]].view(2, 16, 4)
        expected = 0
        for head in range(4):
            group, query = head // 2, seen[number][0, head, 0]
            scores = [
                float(query @ layer.page_keys[0, group, r][held[group, r]].mean(0)) if held[group, r].any() else -1e9
                for r in range(16)
            ]
            best = sorted(range(16), key=lambda r: -scores[r])[:2]
            expected += sum(int(held[group, r].sum()) for r in best)
        seen[number] = expected
    assert step.gaze.attended_visual == pytest.approx(sum(seen.values()) / 12)


def test_other_refusals(model, processor, batch) -> None:
    with pytest.raises(ValueError, match="give one of them"):
        model.generate(**batch, policy=policy_of("snapkv", processor), gaze={"top_k": 2}, max_new_tokens=2)
    with pytest.raises(ValueError, match="beyond a decoder of 3 layers"):
        model.generate(**batch, policy=make_policy("fastv"), max_new_tokens=2)
    with pytest.raises(ValueError, match="with_tokenizer"):
        model.generate(**batch, policy=make_policy("hermes", {"budget": 8}), max_new_tokens=2)
    with pytest.raises(ValueError, match="on_input was not called"):
        model(**batch, cache=cache_of(model, policy_of("hermes", processor)), use_cache=True)
    with pytest.raises(ValueError, match="descriptor_keys='pre_rope'"):
        cache_of(model, policy_of("rekv", processor))
    with pytest.raises(ValueError, match="pad on the left"):
        right = dict(batch, attention_mask=batch["attention_mask"].flip(1))
        right |= {name: batch[name].flip(1) for name in ("input_ids", "mm_token_type_ids")}
        model(**right, cache=cache_of(model, policy_of("recent", processor)), use_cache=True)
    with pytest.raises(ValueError, match="the whole prompt in one call"):
        inputs, cache = encode(processor, (0, "read B3")), cache_of(model, policy_of("fastv", processor))
        end = int((inputs["mm_token_type_ids"][0] > 0).nonzero()[-1]) + 1
        for part in pieces(inputs, [end], [1, 0]):
            model(**part, cache=cache, use_cache=True)


@pytest.mark.parametrize(("name", "gaze"), [("infinipot_v", {"top_k": 2}), *((name, {}) for name in POLICIES)])
def test_masks_in_blocks_are_those_of_all_queries(model, processor, batch, name: str, gaze: dict, monkeypatch) -> None:
    policy = policy_of(name, processor)
    whole = answer(model, batch, gaze=gaze, policy=policy)
    monkeypatch.setattr(policy_layer, "BLOCK_PAIRS", 2 * 4 * 150 * 7)
    parts = answer(model, batch, gaze=gaze, policy=policy)
    for mine, other in zip(parts.logits, whole.logits, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=2e-5)
    for name in ("regions", "attended_visual", "attended_text"):
        assert torch.equal(getattr(parts.gaze, name), getattr(whole.gaze, name))


@pytest.mark.parametrize("name", ["hermes", "snapkv"])
def test_ids_by_position_are_those_by_name(model, processor, name: str) -> None:
    inputs = dict(encode(processor, (0, "read B3")))
    policy = policy_of(name, processor)
    by_name = model.generate(**inputs, policy=policy, max_new_tokens=3, do_sample=False)
    by_position = model.generate(inputs.pop("input_ids"), **inputs, policy=policy, max_new_tokens=3, do_sample=False)
    assert torch.equal(by_name, by_position)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 60.0), (torch.bfloat16, 1.0)])
def test_attention_of_a_question_is_exact_in_16_bits(dtype, size: float, monkeypatch) -> None:
    """Products that overflow fp16 before they are scaled, and near-ties in bf16; queries in blocks or not."""
    generator = torch.Generator().manual_seed(0)
    q, keys = ((size * torch.randn(1, n, t, 128, generator=generator)).to(dtype) for n, t in ((4, 6), (2, 40)))
    keys[:, :, 20:30] = keys[:, :, 10:20] * (1 + 2**-7)  # the neighbouring number, or the one after
    layer = object.__new__(policy_layer.PolicyLayer)
    layer.q, layer.stored, layer.scaling = q, policy_layer.Stored(keys, keys, None), 128**-0.5
    seen = torch.ones(6, 40, dtype=torch.bool).tril(34)
    layer.allowed = lambda block, row: seen[block].expand(1, 4, -1, -1)
    columns, asking = torch.arange(5, 30), torch.arange(2, 6)
    logits = q[0, :, 2:].double() @ keys[0].double().repeat_interleave(2, 0).transpose(1, 2) * layer.scaling
    want = logits.masked_fill(~seen[2:], -torch.inf).softmax(-1)[:, :, columns]
    got = layer._question(0, columns, asking).attention
    assert got.dtype == torch.float32 and want.shape == got.shape
    torch.testing.assert_close(got.double(), want, atol=1e-4 if size > 1 else 1e-6, rtol=1e-3)
    assert torch.equal(got.mean((0, 1)).topk(8).indices.sort().values, want.mean((0, 1)).topk(8).indices.sort().values)
    monkeypatch.setattr(policy_layer, "BLOCK_PAIRS", 2 * 4 * 40)
    torch.testing.assert_close(layer._question(0, columns, asking).attention, got)
