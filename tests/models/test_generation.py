"""`generate`: cached = uncached, batched = single, beams, sampling, several turns, budgets and traces."""

import pytest
import torch
from transformers import GenerationConfig

from cambrian_gaze.gaze import attended_visual
from cambrian_gaze.models.cache.cache import GazeCache
from tests.models.conftest import ask, make_model, noise

NEW = 6


def new_tokens(output, inputs):
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    return sequences[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_k": 1, "head_granularity": "kv_group"}, {"keep_ratio": 1.0}])
def test_cached_equals_uncached(model, batch, options):
    cached = model.generate(**batch, max_new_tokens=NEW, do_sample=False, gaze=options)
    uncached = model.generate(**batch, max_new_tokens=NEW, do_sample=False, gaze=options, use_cache=False)
    assert torch.equal(cached, uncached)


def test_the_budget_changes_the_answer(model, batch):
    """Otherwise the equalities of this file would hold for a model that ignores its options."""
    logits = [model(**batch, gaze={"top_k": k}).logits[:, -1] for k in (1, 2, 32)]
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    assert (logits[1] - logits[2]).abs().max() > 1e-3


def test_batched_equals_single(model, processor, batch):
    rows = [ask(noise(0), noise(1), text="compare"), ask(noise(2), text="hello there, how are you today?")]
    together = new_tokens(model.generate(**batch, max_new_tokens=NEW, do_sample=False), batch)
    for row, expected in zip(rows, together, strict=True):
        alone = processor.apply_chat_template(row, tokenize=True, add_generation_prompt=True)
        assert torch.equal(new_tokens(model.generate(**alone, max_new_tokens=NEW, do_sample=False), alone)[0], expected)


@pytest.mark.parametrize("beams", [2, 3])
def test_beams_keep_their_images(model, processor, batch, beams):
    """2 + 1 images: repeated along dim 0 they would end up with the wrong samples."""
    together = model.generate(**batch, max_new_tokens=NEW, num_beams=beams, do_sample=False)
    uncached = model.generate(**batch, max_new_tokens=NEW, num_beams=beams, do_sample=False, use_cache=False)
    assert torch.equal(together, uncached)
    alone = processor.apply_chat_template(
        ask(noise(2), text="hello there, how are you today?"), tokenize=True, add_generation_prompt=True
    )
    single = model.generate(**alone, max_new_tokens=NEW, num_beams=beams, do_sample=False)
    width = min(new_tokens(single, alone).shape[1], new_tokens(together, batch).shape[1])
    assert torch.equal(new_tokens(single, alone)[0, :width], new_tokens(together, batch)[1, :width])


def test_several_return_sequences(model, batch):
    torch.manual_seed(3)
    output = model.generate(
        **batch, max_new_tokens=NEW, do_sample=True, num_return_sequences=2, return_gaze=True, gaze={"top_k": 2}
    )
    assert output.sequences.shape[0] == 4
    assert output.gaze.regions.shape[0] == 4
    assert len(output.gaze.region_boxes(1)) == 32 and len(output.gaze.region_boxes(3)) == 16


def test_sampling_is_reproducible(model, batch):
    answers = []
    for _ in range(2):
        torch.manual_seed(1)
        answers.append(model.generate(**batch, max_new_tokens=NEW, do_sample=True))
    assert torch.equal(*answers)


def test_two_turns_with_a_kept_cache(model, processor):
    """A second turn with another image, on the cache of the first, equals the whole conversation afresh."""
    first = ask(noise(0), text="what is this?")
    inputs = processor.apply_chat_template(first, tokenize=True, add_generation_prompt=True)
    cache = GazeCache(model.config.gaze_config)
    out = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False, cache=cache)
    answer = new_tokens(out, inputs)
    turn = processor(text="\n<|im_start|>user\n<image>and this?<|im_end|>\n<|im_start|>assistant\n", images=noise(1))
    ids = torch.cat([inputs["input_ids"], answer, turn["input_ids"]], 1)
    types = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(answer), turn["mm_token_type_ids"]], 1)
    whole = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": types,
        "pixel_values": torch.cat([inputs["pixel_values"], turn["pixel_values"]]),
        "grid_thw": torch.cat([inputs["grid_thw"], turn["grid_thw"]]),
    }
    kept = model.generate(**whole, max_new_tokens=NEW, do_sample=False, cache=cache)
    assert cache.get_seq_length() > ids.shape[1]
    assert torch.equal(kept, model.generate(**whole, max_new_tokens=NEW, do_sample=False))


def test_trace_counts_what_was_attended(model, batch):
    output = model.generate(
        **batch, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, gaze={"top_k": 2}, return_gaze=True
    )
    trace, config = output.gaze, model.config.gaze_config.override(top_k=2)
    layers, heads = model.config.text_config.num_hidden_layers, model.config.text_config.num_attention_heads
    assert trace.regions.shape == (2, NEW, layers, heads, 2)
    for row, images in enumerate((2, 1)):
        expected = attended_visual([(1, 8, 8)] * images, config)
        assert (trace.attended_visual[row] == expected.selected).all()
        assert (trace.attended_context[row] == expected.context).all()
        assert trace.regions[row].max() < expected.regions and trace.regions[row].min() >= 0
    real = int(batch["attention_mask"][0].sum() - (batch["mm_token_type_ids"][0] != 0).sum())
    assert trace.attended_text[0, :, 0, 0].tolist() == [real + step for step in range(NEW)]


def test_trace_of_beams_follows_the_winning_beam(model, batch):
    output = model.generate(
        **batch, max_new_tokens=NEW, num_beams=3, do_sample=False, return_gaze=True, gaze={"top_k": 2}
    )
    sequences, trace = output.sequences, output.gaze
    forced = dict(batch) | {
        "input_ids": sequences,
        "attention_mask": torch.cat([batch["attention_mask"], torch.ones_like(new_tokens(output, batch))], 1),
        "mm_token_type_ids": torch.nn.functional.pad(
            batch["mm_token_type_ids"], (0, new_tokens(output, batch).shape[1])
        ),
    }
    prompt = batch["input_ids"].shape[1]
    for step in range(trace.regions.shape[1]):
        upto = {
            k: v[:, : prompt + step] if k in ("input_ids", "attention_mask", "mm_token_type_ids") else v
            for k, v in forced.items()
        }
        again = model.generate(**upto, max_new_tokens=1, do_sample=False, return_gaze=True, gaze={"top_k": 2})
        for row in range(2):
            if (trace.regions[row, step] >= 0).all():
                assert torch.equal(again.gaze.regions[row, 0], trace.regions[row, step])


def test_context_tokens_can_be_hidden(model, batch):
    output = model.generate(
        **batch, max_new_tokens=2, do_sample=False, return_gaze=True, gaze={"context_visible": False}
    )
    assert (output.gaze.attended_context == 0).all()


@pytest.mark.parametrize("descriptor", ["max", "minmax", "oracle"])
@pytest.mark.parametrize("keys", ["post_rope", "pre_rope"])
def test_other_descriptors_decode_as_they_prefill(batch, descriptor, keys):
    gaze = {"image": {"region_size": [1, 3, 3], "top_k": 2}, "descriptor": descriptor, "descriptor_keys": keys}
    model = make_model(gaze=gaze)
    cached = model.generate(**batch, max_new_tokens=4, do_sample=False)
    assert torch.equal(cached, model.generate(**batch, max_new_tokens=4, do_sample=False, use_cache=False))


def test_crop_forgets_text_and_refuses_images(model, processor):
    inputs = processor.apply_chat_template(ask(noise(0)), tokenize=True, add_generation_prompt=True)
    cache = GazeCache(model.config.gaze_config)
    step = {"cache": cache, "use_cache": True}
    with torch.no_grad():
        model(**inputs, **step)
        want = model(input_ids=torch.tensor([[40]]), **step).logits
        for token in (41, 42):
            model(input_ids=torch.tensor([[token]]), **step)
        cache.crop(-3)
        assert torch.equal(model(input_ids=torch.tensor([[40]]), **step).logits, want)
    with pytest.raises(ValueError, match="an image or video reaches to token"):
        cache.crop(-80)


def test_no_attention_cost_of_unchosen_regions(model, processor, monkeypatch):
    """The gather reads K regions: filling all others with NaN changes nothing."""
    inputs = processor.apply_chat_template(ask(noise(0)), tokenize=True, add_generation_prompt=True)
    cache = GazeCache(model.config.gaze_config)
    out = model.generate(**inputs, max_new_tokens=2, do_sample=False, cache=cache, return_gaze=True)
    with torch.no_grad():
        token = out.sequences[:, -1:]
        layer = cache.layers[0]
        from cambrian_gaze.models.trace import TraceBuilder

        trace = TraceBuilder(model.config.gaze_config)
        keys = layer.page_keys
        want = model(input_ids=token, cache=cache, use_cache=True, gaze_trace=trace).logits
        cache.crop(-1)
        chosen = trace.steps[0].layers[0].regions
        for group in range(keys.shape[1]):
            heads = chosen[0].view(keys.shape[1], -1)[group]
            unread = torch.ones(keys.shape[2], dtype=torch.bool).index_fill_(0, heads, False)
            layer.page_keys[0, group, unread] = float("nan")
            layer.page_values[0, group, unread] = float("nan")
        assert torch.equal(model(input_ids=token, cache=cache, use_cache=True).logits, want)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gaze": {"top_kk": 2}}, "did you mean 'top_k'"),
        ({"gaze": {"top_k": 0}}, "at least 1"),
        ({"gaze": {"top_k": 2, "keep_ratio": 0.5}}, "exactly one"),
        ({"gaze": {"num_context_tokens": 2}}, "cannot change at run time"),
        ({"gaze": {"backend": "maskd"}}, "did you mean 'masked'"),
        ({"cache_implementation": "static"}, "not supported"),
        ({"gaze": {"route_prompt": False}, "use_cache": False}, "needs the cache"),
    ],
)
def test_bad_options_are_refused(model, batch, wrong, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**batch, max_new_tokens=2, do_sample=False, **wrong)


def test_a_foreign_cache_is_refused(model, batch):
    from transformers import DynamicCache

    with pytest.raises(ValueError, match="GazeCache"):
        model.generate(**batch, max_new_tokens=2, do_sample=False, past_key_values=DynamicCache())


def test_what_exceeds_the_positions_is_refused(model):
    """Padding does not count."""
    positions = model.config.text_config.max_position_embeddings
    ids = torch.full((2, positions), 5)
    mask = torch.ones_like(ids)
    mask[:, : positions - 4] = 0
    assert model.generate(input_ids=ids[:, -6:], attention_mask=mask[:, -6:], max_new_tokens=2).shape[1] <= 8
    with pytest.raises(ValueError, match=f"exceed the {positions} positions.*shorten the text"):
        model.generate(input_ids=ids, max_new_tokens=1)
    with pytest.raises(ValueError, match="ask for a shorter answer"):
        model.generate(input_ids=ids[:, :4], max_new_tokens=positions)
    for named in ({"inputs": ids}, {"inputs_embeds": model.get_input_embeddings()(ids)}):
        with pytest.raises(ValueError, match="exceed the"):
            model.generate(**named, max_new_tokens=1)
    for length in ({"max_length": positions + 1}, {"generation_config": GenerationConfig(max_length=positions + 1)}):
        with pytest.raises(ValueError, match="4 tokens of prompt .* ask for a shorter answer"):
            model.generate(input_ids=ids[:, :4], **length)
    assert model.generate(input_ids=ids[:, :4], max_length=6).shape[1] <= 6


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"gaze": {"route_prompt": False}}, {"gaze_offload": "1MiB"}, {"use_cache": False}],
    ids=str,
)
def test_embeddings_in_the_place_of_ids(model, batch, options):
    """Placeholders' embeddings are replaced by the pictures, as those of ids are."""
    rest = {name: value for name, value in batch.items() if name != "input_ids"}
    embeds = model.get_input_embeddings()(batch["input_ids"])
    want = model.generate(**batch, max_new_tokens=NEW, do_sample=False, **options)
    got = model.generate(inputs_embeds=embeds, **rest, max_new_tokens=NEW, do_sample=False, **options)
    assert torch.equal(got, new_tokens(want, batch))
    both = model.generate(**batch, inputs_embeds=embeds, max_new_tokens=NEW, do_sample=False, **options)
    assert torch.equal(both, want)
