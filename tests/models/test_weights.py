"""`return_gaze="weights"`: softmax weights of each new token, beside an answer that stays what it was."""

import pytest
import torch

from cambrian_gaze.attention.decode import native as decode_native
from cambrian_gaze.baselines.registry import make_policy
from cambrian_gaze.gaze.layout import VISUAL
from cambrian_gaze.gaze.token_types import IMAGE_TYPE
from tests.baselines._policies import OPTIONS as POLICY_OPTIONS
from tests.baselines._policies import make_model as make_policy_model
from tests.baselines._policies import make_processor
from tests.models.cache.test_paging import film, pool_of
from tests.models.conftest import ask, make_model, noise

NEW = 4
LENGTH = dict(max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)


def answer(model, inputs, **options):
    return model.generate(**inputs, **LENGTH | {"output_logits": True, "return_gaze": "weights"} | options)


def eager(model, output, inputs, gaze):
    """[B][L] weights [H, T, S] of every new token over the whole sequence, from one eager pass: what attention
    computed of queries and keys, under the recorded choice, is made again from the layers' own inputs."""
    import cambrian_gaze.attention as attention
    from cambrian_gaze.gaze.routing import as_mask
    from cambrian_gaze.gaze.visibility import routable, structure

    calls, own = [], attention.attend

    def spy(q, k, v, ctx, *, layer, scaling, dropout=0.0):
        calls.append((q, k, ctx, layer, scaling))
        return own(q, k, v, ctx, layer=layer, scaling=scaling, dropout=dropout)

    grown = output.sequences.shape[1] - inputs["input_ids"].shape[1]
    whole = dict(inputs) | {"input_ids": output.sequences}
    for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        whole[name] = torch.nn.functional.pad(inputs[name], (0, grown), value=value)
    attention.__dict__["attend"] = spy
    try:
        with torch.no_grad():
            model(**whole, gaze=gaze, use_cache=False)
    finally:
        attention.__dict__["attend"] = own
    layers, regions = [], output.gaze.regions
    for q, k, ctx, layer, scaling in calls:
        last = slice(q.shape[2] - 1 - grown, -1)
        heads = q.shape[1]
        logits = q[:, :, last].double() @ k.double().repeat_interleave(heads // k.shape[1], 1).transpose(-1, -2)
        query = ctx.layout.tokens(last)
        seen, choice = structure(query, ctx.layout, ctx.config), routable(query, ctx.layout, ctx.config)
        chosen = as_mask(regions[:, :, layer].transpose(1, 2), ctx.layout.num_regions)
        at_key = ctx.layout.region.clamp(min=0)[:, None, None].expand(*chosen.shape[:3], -1)
        allowed = seen[:, None] & (~choice[:, None] | chosen.gather(-1, at_key))
        layers.append((logits * scaling).masked_fill(~allowed, -torch.inf).softmax(-1))
    return torch.stack(layers, 1), calls[0][2].layout


def check(model, output, inputs, gaze, tolerance=2e-5):
    weights, (want, layout) = output.gaze.weights, eager(model, output, inputs, gaze)
    assert weights.by_role.sum(-1) == pytest.approx(1.0, abs=1e-5)
    for row in range(len(output.sequences)):
        visual = layout.role[row] == VISUAL
        heat = want[row].mean(1)[..., visual].transpose(0, 1)
        torch.testing.assert_close(weights.visual[row, :, :, : visual.sum()].double(), heat, atol=tolerance, rtol=0)
        assert (weights.visual[row, :, :, visual.sum() :] == 0).all()
        on_pictures = want[row][..., visual].sum(-1).permute(2, 0, 1)
        torch.testing.assert_close(weights.by_role[row, ..., 0].double(), on_pictures, atol=tolerance, rtol=0)
        regions = output.gaze.regions[row]
        for place in range(regions.shape[-1]):
            member = layout.region[row] == regions[..., place][..., None]
            inside = (want[row].permute(2, 0, 1, 3) * member).sum(-1).masked_fill(regions[..., place] < 0, 0)
            torch.testing.assert_close(weights.inside[row, ..., place].double(), inside, atol=tolerance, rtol=0)


@pytest.mark.parametrize("backend", ["masked", "varlen_reference", "auto"])
@pytest.mark.parametrize(
    "options", [{"top_k": 2}, {"top_k": 3, "head_granularity": "kv_group"}, {"keep_ratio": 1.0}], ids=str
)
def test_two_rows_of_several_pictures(model, batch, backend, options):
    gaze = options | {"backend": backend}
    output = answer(model, batch, gaze=gaze)
    check(model, output, batch, gaze)
    without = answer(model, batch, gaze=gaze, return_gaze=True)
    assert torch.equal(output.sequences, without.sequences) and without.gaze.weights is None
    assert all(torch.equal(a, b) for a, b in zip(output.logits, without.logits, strict=True))


@pytest.mark.parametrize("gaze", [{"top_k": 2}, {"top_k": 5, "head_granularity": "kv_group"}], ids=str)
def test_the_answer_is_to_the_bit_that_without_recording(model, batch, gaze):
    plain = answer(model, batch, gaze=gaze, return_gaze=False, return_dict_in_generate=True)
    output = answer(model, batch, gaze=gaze)
    assert all(torch.equal(a, b) for a, b in zip(output.logits, plain.logits, strict=True))


def test_of_a_video_and_a_layer_that_is_dense(processor):
    model = make_model(gaze={"dense_layers": [0]})
    inputs = processor.apply_chat_template(film(0, 1, 2), tokenize=True, add_generation_prompt=True)
    output = answer(model, inputs, gaze={"top_k": 3})
    check(model, output, inputs, {"top_k": 3})
    sparse, dense = (output.gaze.weights.visual[0, :, layer] for layer in (1, 0))
    assert (dense > 0).all() and (sparse == 0).any(-1).all()


def test_plain_torch_and_compiled_code_agree(model, batch, monkeypatch):
    compiled = answer(model, batch, gaze={"top_k": 2})
    monkeypatch.setattr(decode_native, "takes", lambda grouped: False)
    plain = answer(model, batch, gaze={"top_k": 2})
    for name in ("visual", "inside", "by_role"):
        a, b = (getattr(output.gaze.weights, name) for output in (compiled, plain))
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("beams", [{"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}], ids=str)
def test_of_the_sequences_that_come_out(model, processor, beams):
    inputs = processor.apply_chat_template(ask(noise(0), noise(1)), tokenize=True, add_generation_prompt=True)
    output = answer(model, inputs, gaze={"top_k": 2}, **beams)
    for row in range(len(output.sequences)):
        alone = dict(inputs) | {"input_ids": output.sequences[row : row + 1, :-1]}
        grown = alone["input_ids"].shape[1] - inputs["input_ids"].shape[1]
        for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
            alone[name] = torch.nn.functional.pad(inputs[name], (0, grown), value=value)
        again = model.generate(**alone, max_new_tokens=1, do_sample=False, return_gaze="weights", gaze={"top_k": 2})
        torch.testing.assert_close(
            again.gaze.weights.visual[0, 0], output.gaze.weights.visual[row, -1], atol=2e-5, rtol=0
        )


def test_pages_in_host_memory_are_not_read_twice(model, processor):
    inputs = processor.apply_chat_template(film(*range(5)), tokenize=True, add_generation_prompt=True)
    pool = pool_of(model, inputs, share=0.3)
    options = {"gaze": {"top_k": 2}}
    resident, counted, paged = (
        answer(model, inputs, **options, **more)
        for more in ({}, {"gaze_offload": pool, "return_gaze": True}, {"gaze_offload": pool})
    )
    for name in ("visual", "inside", "by_role"):
        a, b = (getattr(output.gaze.weights, name) for output in (resident, paged))
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    assert counted.gaze_paging == paged.gaze_paging


def test_of_a_stream(model, processor):
    stream = model.stream(processor, gaze={"top_k": 2})
    stream.append([noise(0), noise(1)])
    stream.append([noise(2)])
    told = stream.ask("what is this?", **LENGTH, return_gaze="weights").gaze
    parts = [{"type": "video", "video": [noise(n) for n in range(3)]}, {"type": "text", "text": "what is this?"}]
    chat = [{"role": "user", "content": parts}]
    inputs = processor.apply_chat_template(chat, tokenize=True, add_generation_prompt=True)
    whole = answer(model, inputs, gaze={"top_k": 2}).gaze
    for name in ("visual", "inside", "by_role"):
        a, b = (getattr(trace.weights, name) for trace in (told, whole))
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["snapkv", "recent", "quest", "fastv"])
def test_what_a_policy_hides_weighs_nothing(name):
    model, processor = make_policy_model(), make_processor()
    inputs = processor.apply_chat_template(ask(noise(0)), tokenize=True, add_generation_prompt=True)
    policy = make_policy(name, POLICY_OPTIONS[name]).with_tokenizer(processor.tokenizer)
    output = answer(model, inputs, policy=policy)
    weights, gaze = output.gaze.weights, output.gaze
    assert weights.by_role.sum(-1) == pytest.approx(1.0, abs=1e-5)
    seen = (weights.visual > 0).sum(-1)
    heads = gaze.attended_visual.shape[-1]
    assert (seen <= gaze.attended_visual.sum(-1)).all() and (seen * heads >= gaze.attended_visual.sum(-1)).all()
    assert int((weights.visual[0, 0, -1] > 0).sum()) < 64
    if name in ("snapkv", "recent"):
        visual = inputs["mm_token_type_ids"][0] == IMAGE_TYPE
        for layer, held in output.held.items():
            gone = ~held[0].any(0)[: len(visual)][visual]
            kept = weights.visual[0, :, layer]
            assert gone.any() and (kept[:, gone] == 0).all() and (kept[:, ~gone] > 0).all()


def test_another_word_is_refused(model, batch):
    with pytest.raises(ValueError, match="return_gaze is 'masses'; give True, False"):
        model.generate(**batch, return_gaze="masses")


def test_dense_weights_hold_those_of_the_chosen_regions(model, batch):
    """Among the entries that a head saw, dense weights are the real ones but for a factor."""
    gaze = {"top_k": 2}
    plain, output = answer(model, batch, gaze=gaze), answer(model, batch, gaze=gaze, return_gaze="mass")
    assert torch.equal(plain.sequences, output.sequences) and plain.gaze.weights.dense is None
    dense, weights = output.gaze.weights.dense, output.gaze.weights
    torch.testing.assert_close(weights.inside, plain.gaze.weights.inside)
    want, layout = eager(model, output, batch, gaze)
    for row in range(len(output.sequences)):
        visual = layout.role[row] == VISUAL
        seen = want[row].permute(2, 0, 1, 3)[..., visual]  # [T, L, H, N]
        mine = dense[row, ..., : visual.sum()].double()
        assert mine.sum(-1) == pytest.approx(1.0, abs=1e-5)
        inside = torch.where(seen > 0, mine, 0)
        torch.testing.assert_close(
            inside / inside.sum(-1, keepdim=True), seen / seen.sum(-1, keepdim=True), atol=2e-4, rtol=0
        )
    with pytest.raises(ValueError, match="leaves keys out"):
        model.generate(**batch, policy=make_policy("uniform", {"budget": 8}), return_gaze="mass")


def test_text_alone_has_all_the_weight(model, processor):
    inputs = processor.apply_chat_template(ask(text="hello"), tokenize=True, add_generation_prompt=True)
    weights = answer(model, inputs).gaze.weights
    assert weights.visual.shape[-1] == 0 and (weights.by_role[..., :2] == 0).all()
    assert weights.by_role[..., 2] == pytest.approx(1.0, abs=1e-5)
