"""What Hugging Face's own tools and their users' hands expect of a model."""

import pytest
import torch

from cambrian_gaze import CambrianGazeForConditionalGeneration
from tests.models.conftest import ask, make_model, noise

NEW = 12


def inputs_of(processor, *pictures, text="Count 1 2 3 1 2 3"):
    return processor.apply_chat_template(ask(*pictures, text=text), tokenize=True, add_generation_prompt=True)


@pytest.fixture(scope="module")
def close():
    """A model that often says what `model` says, and often not."""
    other = make_model()
    with torch.no_grad():
        torch.manual_seed(1)
        other.lm_head.weight.add_(0.4 * torch.randn_like(other.lm_head.weight))
    # Otherwise transformers drafts up to 20 tokens for each that is taken, and more from call to call.
    drafts = {"num_assistant_tokens": 3, "num_assistant_tokens_schedule": "constant"}
    other.generation_config.update(**drafts, assistant_confidence_threshold=0)
    return other


@pytest.mark.parametrize("pictures", [0, 2])
@pytest.mark.parametrize("gaze", [{"top_k": 1}, {"keep_ratio": 1.0}])
@pytest.mark.parametrize("offload", [None, "1MiB"])
def test_assisted_decoding_gives_the_same_tokens(model, close, processor, pictures, gaze, offload):
    inputs = inputs_of(processor, *map(noise, range(pictures)))
    greedy = {"max_new_tokens": NEW, "do_sample": False, "gaze": gaze}
    want = model.generate(**inputs, **greedy)
    calls = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    try:
        for options in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": close}):
            calls.clear()
            assert torch.equal(model.generate(**inputs, **greedy, **options, gaze_offload=offload), want)
    finally:
        hook.remove()
    assert len(calls) < NEW  # the assistant's tokens were taken, and others cut off the cache again


def test_what_assisted_decoding_cannot_do(model, processor):
    from transformers import AutoModelForCausalLM

    from cambrian_gaze.baselines.registry import make_policy

    inputs = inputs_of(processor)
    text = AutoModelForCausalLM.from_config(model.config.text_config)
    for options, message in (
        ({"prompt_lookup_num_tokens": 3, "return_gaze": True}, "return_gaze=True has no meaning"),
        ({"prompt_lookup_num_tokens": 3, "gaze": {"route_prompt": False}}, "route_prompt"),
        ({"assistant_early_exit": 1}, "assistant_early_exit"),
        ({"assistant_model": text}, "Qwen3ForCausalLM"),
        ({"prompt_lookup_num_tokens": 3, "policy": make_policy("snapkv", {"budget": 8})}, "'snapkv' does not go with"),
        ({"prompt_lookup_num_tokens": 3, "inputs_embeds": torch.zeros(1, 2, 96)}, "inputs_embeds has none"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(**inputs, max_new_tokens=2, **options)


def test_a_policy_by_name_and_pages_of_transformers(model, processor):
    with pytest.raises(ValueError, match="make_policy.*by its name"):
        model.generate(**inputs_of(processor), max_new_tokens=2, policy="snapkv")
    with pytest.raises(ValueError, match="generate_batch.*give generate the whole batch"):
        model.generate_batch([[5, 6, 7]])


def test_top_k_without_sampling_says_what_it_is(model, processor, caplog):
    inputs = inputs_of(processor)
    model.generate(**inputs, max_new_tokens=1, do_sample=False, top_k=2)
    assert 'gaze={"top_k": 2}' in caplog.text
    caplog.clear()
    model.generate(**inputs, max_new_tokens=1, do_sample=True, top_k=2)
    assert not caplog.text


@pytest.mark.parametrize("wanted", ["sdpa", "eager", {"vision_config": "eager"}, {"": "eager"}, "gaze"])
def test_another_attention_is_that_of_the_tower(processor, wanted):
    model = make_model()
    inputs = inputs_of(processor, noise(0))
    want = model.generate(**inputs, max_new_tokens=4, do_sample=False, gaze={"top_k": 1}, return_gaze=True)
    for holder in (model, model.model):
        holder.set_attn_implementation(wanted)
    assert model.model.language_model.config._attn_implementation == "gaze"
    if wanted != "gaze":
        name = wanted if isinstance(wanted, str) else next(iter(wanted.values()))
        assert model.model.vision_tower.config._attn_implementation == name
    again = model.generate(**inputs, max_new_tokens=4, do_sample=False, gaze={"top_k": 1}, return_gaze=True)
    assert torch.equal(want.sequences, again.sequences) and torch.equal(want.gaze.regions, again.gaze.regions)


def test_another_attention_for_the_decoder_is_refused(processor, tmp_path):
    from transformers import AutoModelForImageTextToText

    model = make_model()
    inputs = inputs_of(processor, noise(0))
    for wanted, message in (({"text_config": "sdpa"}, "gaze attention and nothing else"), ({"tower": "sdpa"}, "tower")):
        with pytest.raises(ValueError, match=message):
            model.set_attn_implementation(wanted)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="gaze attention and nothing else"):
        CambrianGazeForConditionalGeneration.from_pretrained(tmp_path, attn_implementation={"text_config": "eager"})
    for wanted in ("eager", {"vision_config": "eager"}):
        loaded = CambrianGazeForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=wanted)
        assert loaded.model.vision_tower.config._attn_implementation == "eager"
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits) or torch.allclose(
            loaded(**inputs).logits, model(**inputs).logits, atol=1e-4
        )
    for load in (CambrianGazeForConditionalGeneration, AutoModelForImageTextToText):
        with pytest.raises(ValueError, match="'flash_attention_2'.*Leave it out"):
            load.from_pretrained(tmp_path, attn_implementation="flash_attention_2")
    model.model.language_model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="the decoder's attention is 'sdpa'"):
        model.generate(**inputs, max_new_tokens=2)


def test_tuples_hidden_states_and_no_attentions(model, processor):
    inputs = inputs_of(processor, noise(0))
    out = model(**inputs, output_hidden_states=True)
    plain = model(**inputs, return_dict=False, use_cache=False)
    assert isinstance(plain, tuple) and torch.equal(plain[0], out.logits)
    assert isinstance(model.model(**inputs, return_dict=False), tuple)
    assert len(out.hidden_states) == model.config.text_config.num_hidden_layers + 1
    assert out.hidden_states[-1].shape[:2] == inputs["input_ids"].shape
    for call in (model, model.model, model.generate):
        with pytest.raises(ValueError, match="return_gaze=True"):
            call(**inputs, output_attentions=True)


def test_image_features_are_public(model, processor):
    inputs = inputs_of(processor, noise(0), noise(1))
    features = model.get_image_features(inputs["pixel_values"])
    assert features.shape == (2, 64, model.config.text_config.hidden_size)
    assert torch.equal(features, model.model.get_image_features(inputs["pixel_values"]))


def test_auto_classes(model, processor, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
        assert type(auto.from_pretrained(tmp_path)) is CambrianGazeForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(processor)


def test_a_model_is_loaded_under_options_of_the_gaze(model, processor, tmp_path):
    from transformers import AutoConfig, AutoModelForImageTextToText

    model.save_pretrained(tmp_path)
    inputs = inputs_of(processor, noise(0))
    wanted = {"top_k": 1, "backend": "masked"}
    for load in (AutoModelForImageTextToText, CambrianGazeForConditionalGeneration):
        loaded = load.from_pretrained(tmp_path, gaze=wanted)
        assert torch.equal(loaded(**inputs).logits, model(**inputs, gaze=wanted).logits)
    assert not torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert AutoConfig.from_pretrained(tmp_path, gaze=wanted).gaze_config == model.model.resolve_gaze(wanted)
    with pytest.raises(ValueError, match="did you mean 'top_k'"):
        AutoModelForImageTextToText.from_pretrained(tmp_path, gaze={"topk": 1})


def test_after_to_device_and_dtype(processor):
    model = make_model().to("cpu", torch.bfloat16)
    inputs = inputs_of(processor, noise(0)).to(model.device, model.dtype)
    assert inputs["pixel_values"].dtype == torch.bfloat16 and inputs["input_ids"].dtype == torch.int64
    out = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    (text,) = processor.post_process_image_text_to_text(out[:, -3:])
    assert (
        text
        == processor.batch_decode(out[:, -3:], skip_special_tokens=True)[0]
        == processor.decode(out[0, -3:], skip_special_tokens=True)
    )


def test_pipeline(model, processor):
    from transformers import pipeline

    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    chat = ask(noise(0), text="hi")

    def call(**inputs):
        return pipe(**inputs, generate_kwargs={"max_new_tokens": 4, "do_sample": False})

    said = call(text=chat)[0]["generated_text"][-1]
    assert said["role"] == "assistant"
    inputs = inputs_of(processor, noise(0), text="hi")
    out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert said["content"] == processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    both = call(text=[chat, ask(noise(1))])
    assert both[0][0]["generated_text"][-1] == said
    begun = [*chat, {"role": "assistant", "content": [{"type": "text", "text": "B3 is"}]}]
    assert call(text=begun)[0]["generated_text"][-1]["content"][-1]["text"].startswith("B3 is")
    plain = call(images=noise(0), text="<image>\nhi", return_full_text=False)
    assert isinstance(plain[0]["generated_text"], str)
    with pytest.raises(ValueError, match="do_sample.*to its generate_kwargs"):
        pipe(text=chat, do_sample=True)


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [True, False])
@pytest.mark.parametrize("form", ["messages", "prompt"])
def test_trl_trains(processor, pictures, form, tmp_path):
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    model = make_model()
    question, answer = {"role": "user", "content": "What?"}, {"role": "assistant", "content": "B3 7"}
    row = {"messages": [question, answer]} if form == "messages" else {"prompt": [question], "completion": [answer]}
    rows = [row | ({"images": [noise(i)]} if pictures else {}) for i in range(4)]
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        use_cpu=True,
        bf16=False,
        report_to="none",
        max_length=None,
        save_strategy="no",
        logging_steps=1,
    )
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = trl.SFTTrainer(
        model=model, args=arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=processor
    )
    batch = next(iter(trainer.get_train_dataloader()))
    if form == "prompt":
        spoken = batch["labels"][0][batch["labels"][0] != -100]
        assert processor.decode(spoken) == "B3 7<|im_end|>\n"
    assert ("pixel_values" in batch) == pictures
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and losses[1] < losses[0]
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert any("language_model" in name for name in changed)
    assert any("mm_projector" in name for name in changed) == pictures


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_as_a_whole(batch, backend):
    from cambrian_gaze.models.presets import preset

    parts = ("text_config", "vision_config")  # one layer each: Inductor compiles every graph as C++
    model = make_model(**{part: preset("tiny")[part] | {"num_hidden_layers": 1} for part in parts}).train()
    labels = batch["input_ids"].masked_fill((batch["mm_token_type_ids"] != 0) | (batch["attention_mask"] == 0), -100)

    def step(call):
        model.zero_grad()
        loss = call(**batch, labels=labels, gaze={"top_k": 2}).loss
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    loss, grads = step(model)
    greedy = {"max_new_tokens": 6, "do_sample": False, "gaze": {"top_k": 2}}
    tokens = model.eval().generate(**batch, **greedy)
    compiled = torch.compile(model.train(), backend=backend)
    again, other = step(compiled)
    assert torch.allclose(loss, again, atol=1e-4) and grads.keys() == other.keys()
    assert all(torch.allclose(grads[name], other[name], atol=1e-3) for name in grads)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    model.eval().forward = torch.compile(model.forward, backend=backend)
    assert torch.equal(model.generate(**batch, **greedy), tokens)
