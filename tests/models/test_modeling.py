"""The model: saving and loading, gradients, checkpointing, compilation, bf16, and what it refuses."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from cambrian_gaze import CambrianGazeConfig, CambrianGazeForConditionalGeneration
from tests.models.conftest import ask, make_model, noise


def labelled(batch):
    labels = batch["input_ids"].clone()
    labels[batch["attention_mask"] == 0] = -100
    labels[batch["mm_token_type_ids"] != 0] = -100
    return dict(batch) | {"labels": labels}


def gradients(model, batch, **options):
    model.zero_grad()
    loss = model(**labelled(batch), **options).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_saved_and_loaded_generates_the_same(model, processor, batch, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.bin"))
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(loaded, CambrianGazeForConditionalGeneration)
    assert loaded.config.gaze_config == model.config.gaze_config
    again = AutoProcessor.from_pretrained(tmp_path)
    rows = [ask(noise(0), noise(1), text="compare"), ask(noise(2), text="hello there, how are you today?")]
    inputs = again.apply_chat_template(rows, tokenize=True, add_generation_prompt=True)
    assert all(torch.equal(inputs[name], batch[name]) for name in batch)
    arguments = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**batch, **arguments), loaded.generate(**batch, **arguments))


def test_a_tied_head_stays_tied(batch, tmp_path):
    from cambrian_gaze.models.presets import preset

    text = preset("tiny")["text_config"] | {"tie_word_embeddings": True}
    model = CambrianGazeForConditionalGeneration.from_preset("tiny", text_config=text).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(model(**batch).logits, loaded(**batch).logits)


def test_new_parameters_lie_under_one_prefix(model):
    dense = make_model(gaze={"image": {"region_size": [1, 2, 2]}, "num_context_tokens": 0})
    extra = set(model.state_dict()) - set(dense.state_dict())
    assert extra == {"model.gaze.context_tokens"}
    assert {"model.mm_projector.0.weight", "model.mm_projector.2.bias"} <= set(dense.state_dict())


def test_every_parameter_gets_a_gradient(batch):
    model = make_model().train()
    _, grads = gradients(model, batch)
    assert {n for n, _ in model.named_parameters()} == set(grads)
    assert all(g.isfinite().all() for g in grads.values())
    assert grads["model.gaze.context_tokens"].abs().sum() > 0


def test_text_only_batches_touch_the_same_parameters(processor, batch):
    """A rank without images must have the same gradients to reduce as the others."""
    model = make_model().train()
    text = processor.apply_chat_template(ask(text="no picture here"), tokenize=True, add_generation_prompt=True)
    _, with_image = gradients(model, batch)
    _, without = gradients(model, text)
    assert set(with_image) == set(without)
    visual = [n for n in without if "vision_tower" in n or "mm_projector" in n or "gaze" in n]
    assert visual and all((without[n] == 0).all() for n in visual)
    model.model.vision_tower.requires_grad_(False)
    _, frozen = gradients(model, text)
    assert "model.mm_projector.0.weight" in frozen and "model.gaze.context_tokens" in frozen


def test_loss_without_logits_is_the_same(batch):
    model = make_model().train()
    inputs = labelled(batch)
    inputs["labels"][:, :100] = -100
    whole = model(**inputs)
    short = model(**inputs, skip_logits=True)
    assert short.logits is None and torch.allclose(whole.loss, short.loss)
    assert torch.allclose(
        model(**inputs, num_items_in_batch=7, skip_logits=True).loss * 7, model(**inputs, num_items_in_batch=1).loss
    )


@pytest.mark.parametrize("skip", [False, True])
def test_a_batch_without_supervision_has_zero_loss_and_gradients(batch, skip):
    model = make_model().train()
    loss = model(**(dict(batch) | {"labels": torch.full_like(batch["input_ids"], -100)}), skip_logits=skip).loss
    loss.backward()
    assert loss == 0 and all((p.grad == 0).all() for p in model.parameters())


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(batch, reentrant):
    model = make_model().train()
    loss, grads = gradients(model, batch)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    again, checkpointed = gradients(model, batch)
    assert torch.equal(loss, again)
    assert all(torch.allclose(grads[n], checkpointed[n], atol=1e-6) for n in grads)


def test_checkpointing_saves_selections(batch, monkeypatch):
    """Routing runs once per layer; the recomputation reads what was chosen."""
    from cambrian_gaze.attention import context

    calls = []
    real = context.choose_from
    monkeypatch.setattr(context, "choose_from", lambda *a: calls.append(1) or real(*a))
    model = make_model().train()
    model.gradient_checkpointing_enable()
    gradients(model, batch)
    assert len(calls) == model.config.text_config.num_hidden_layers


def test_compiled_decoder_trains_the_same(batch):
    from cambrian_gaze.models.presets import preset

    model = make_model(text_config=preset("tiny")["text_config"] | {"num_hidden_layers": 1}).train()
    loss, grads = gradients(model, batch)
    model.model.language_model.forward = torch.compile(model.model.language_model.forward, backend="aot_eager")
    again, compiled = gradients(model, batch)
    assert torch.allclose(loss, again, atol=1e-5)
    assert all(torch.allclose(grads[n], compiled[n], atol=1e-4) for n in grads)


def test_bf16_is_close_to_fp32(batch):
    model = make_model()
    want = model(**batch).logits
    got = model.to(torch.bfloat16)(**batch).logits
    assert got.dtype == torch.bfloat16
    real = batch["attention_mask"].bool()
    assert torch.nn.functional.cosine_similarity(want[real], got[real].float(), dim=-1).median() > 0.99
    tokens = model.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert tokens.shape[1] == batch["input_ids"].shape[1] + 3


def test_qwen2_decoder_works_unpatched(batch):
    from cambrian_gaze.models.presets import preset

    text = preset("tiny")["text_config"] | {"model_type": "qwen2"}
    text.pop("head_dim")
    model = make_model(text_config=text)
    assert type(model.model.language_model).__name__ == "Qwen2Model"
    cached = model.generate(**batch, max_new_tokens=4, do_sample=False)
    assert torch.equal(cached, model.generate(**batch, max_new_tokens=4, do_sample=False, use_cache=False))


def test_llama_decoder_works_unpatched(batch):
    from cambrian_gaze.models.presets import preset

    text = preset("tiny")["text_config"] | {"model_type": "llama"}
    model = make_model(text_config=text)
    cached = model.generate(**batch, max_new_tokens=4, do_sample=False)
    assert torch.equal(cached, model.generate(**batch, max_new_tokens=4, do_sample=False, use_cache=False))


def test_dense_gaze_equals_transformers_own_attention(batch):
    """With every region kept, |C| = 0 and no padding, the decoder is transformers' own under SDPA."""
    model = make_model(gaze={"image": {"region_size": [1, 2, 2]}, "num_context_tokens": 0})
    ids = torch.randint(5, 200, (2, 12))
    ours = model(input_ids=ids).logits
    model.model.language_model.set_attn_implementation("sdpa")
    with torch.no_grad():
        hidden = model.model.language_model(input_ids=ids).last_hidden_state
        assert torch.allclose(model.lm_head(hidden), ours, atol=1e-4)


def test_decoder_without_context_is_refused(model):
    with pytest.raises(ValueError, match="gaze_context"):
        model.model.language_model(input_ids=torch.tensor([[5, 6]]))


def test_conv_projector_starts_as_average_pooling(processor):
    model = make_model(mm_projector_type="conv3x3_mlp2x_gelu", gaze={"image": {"region_size": [1, 2, 2], "top_k": 1}})
    assert model.config.grid == (4, 4)
    pooled = make_model(mm_projector_type="avgpool2_mlp2x_gelu", gaze={"image": {"region_size": [1, 2, 2], "top_k": 1}})
    pooled.load_state_dict(model.state_dict(), strict=False)
    pixels = processor.preprocess_images([noise(0)])
    with torch.no_grad():
        want, got = pooled.model.get_image_features(pixels), model.model.get_image_features(pixels)
    assert got.shape == (1, 16, 96)
    assert torch.allclose(want, got, atol=1e-4)


@pytest.mark.parametrize("kind", ["conv3x3_mlp2x_gelu", "avgpool2_mlp2x_gelu", "maxpool2_mlp2x_gelu"])
@pytest.mark.parametrize("position", ["before_mlp", "after_mlp"])
def test_compressing_projectors_generate(kind, position, tmp_path):
    from cambrian_gaze import CambrianGazeProcessor

    options = {"mm_projector_type": kind, "mm_conv_position": position}
    model = make_model(**options, gaze={"image": {"region_size": [1, 2, 2], "top_k": 1}})
    inputs = CambrianGazeProcessor.from_preset("tiny", **options).apply_chat_template(
        ask(noise(0)), tokenize=True, add_generation_prompt=True
    )
    assert inputs["grid_thw"].tolist() == [[1, 4, 4]]
    out = model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b | {"grid_thw": torch.tensor([[1, 8, 8], [1, 8, 8]])}, "visual and 12 context placeholders"),
        (lambda b: b | {"grid_thw": torch.tensor([[1, 10, 8], [1, 6, 8], [1, 8, 8]])}, "unbroken run"),
        (lambda b: b | {"pixel_values": b["pixel_values"][:2]}, "pixel_values hold 2 images"),
        (lambda b: b | {"pixel_values": b["pixel_values"][..., :32]}, r"\[N, 3, 64, 64\]"),
        (lambda b: {k: v for k, v in b.items() if k != "mm_token_type_ids"}, "mm_token_type_ids"),
    ],
)
def test_disagreeing_inputs_are_refused(model, batch, change, message):
    with pytest.raises(ValueError, match=message):
        model(**change(dict(batch)))


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    Qwen3ForCausalLM(Qwen3Config(vocab_size=64, intermediate_size=32, head_dim=16, **small)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="qwen3"):
        CambrianGazeForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mm_projector_type": "mlp3x"}, "mm_projector_type"),
        ({"gaze": {"image": {"region_size": [1, 0, 2]}}}, "region_size"),
        ({"gaze": {"num_context_token": 2}}, "did you mean 'num_context_tokens'"),
        ({"vision_config": {"model_type": "no_such_tower"}}, "no_such_tower"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        CambrianGazeConfig.from_preset("tiny", **fields)


def test_a_changed_gaze_is_followed_at_once(batch):
    """What the last call asked for is kept, and not what it was."""
    model = make_model()
    options = {"top_k": 1}
    assert [model.model.resolve_gaze(g).image.top_k for g in (None, options, None)] == [2, 1, 2]
    assert model.model.resolve_gaze(None) is model.model.resolve_gaze(None)
    options["top_k"] = 3
    assert model.model.resolve_gaze(options).image.top_k == 3
    model.config.gaze["image"]["top_k"] = 1
    assert model.model.resolve_gaze(None).image.top_k == 1
    logits = model(**batch).logits
    model.config.gaze = {**model.config.gaze, "image": {"region_size": [1, 2, 2], "top_k": 8}}
    assert not torch.equal(model(**batch).logits, logits)
