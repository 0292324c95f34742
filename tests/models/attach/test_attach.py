"""Gaze on models of transformers: K of all changes nothing, a small K sees the chosen regions and no other."""

import pytest
import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import AttentionMaskInterface

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.models.attach import attach_gaze
from cambrian_gaze.models.attach.families import visuals_of
from tests.models.attach._families import Case, attention_by_loops, onevision, qwen

REGIONS = {"region_size": [1, 2, 2]}
FAMILIES = ["llava_onevision", "qwen2_vl", "qwen2_5_vl"]


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    return onevision() if request.param == "llava_onevision" else qwen(request.param)


def logits(case: Case) -> torch.Tensor:
    with torch.no_grad():
        return case.model(**case.inputs).logits[case.inputs["attention_mask"].bool()]


def answer(case: Case, **options) -> torch.Tensor:
    return case.model.generate(**case.inputs, do_sample=False, max_new_tokens=6, **options)


def test_every_region_is_the_untouched_model(case: Case) -> None:
    before, said, beams = logits(case), answer(case), answer(case, num_beams=3)
    handle = attach_gaze(case.model, {"image": REGIONS | {"top_k": 99}})
    with handle.recording() as calls:
        torch.testing.assert_close(logits(case), before, rtol=0, atol=1e-5)
    seen = (case.region >= 0).sum(1)
    assert [int(c) for c in calls[0].layers[1].visual[:, 0]] == seen.tolist()
    assert torch.equal(answer(case), said)
    assert torch.equal(answer(case, num_beams=3), beams)
    assert torch.equal(answer(case, use_cache=False), said)


def test_few_regions_are_those_of_the_reference(case: Case) -> None:
    counts: list[int] = []
    AttentionInterface.register("loops", attention_by_loops(case, 1, counts))
    AttentionMaskInterface.register("loops", lambda *args, **kwargs: None)
    decoder = case.model.model.language_model
    was = decoder.config._attn_implementation
    dense = logits(case)
    decoder.set_attn_implementation("loops")
    expected = logits(case)
    decoder.set_attn_implementation(was)

    handle = attach_gaze(case.model, {"image": REGIONS | {"top_k": 1}})
    with handle.recording() as calls:
        routed = logits(case)
    torch.testing.assert_close(routed, expected, rtol=0, atol=1e-5)
    assert (routed - dense).abs().max() > 1e-3, "K=1 must make a difference"
    queries, visual, context, _, kept = calls[0].sums.tolist()
    assert (queries, visual, context) == (len(counts), sum(counts), 0)
    newlines = (case.region < 0) & ~case.text & case.inputs["attention_mask"].bool()
    assert kept == len(counts) - int(newlines.sum()) * 2 * 4, "one region per query, head and layer"


def test_decoding_through_the_cache_is_the_whole_sequence_at_once(case: Case) -> None:
    handle = attach_gaze(case.model, GazeConfig.from_dict({"image": REGIONS | {"top_k": 1}, "num_context_tokens": 0}))
    with handle.recording() as calls:
        cached = answer(case)
    assert len(calls) == 6
    assert all(int(layer.visual.max()) <= 4 for call in calls for layer in call.layers.values())
    assert torch.equal(cached, answer(case, use_cache=False))


def test_a_placeholder_that_is_generated_is_text(case: Case) -> None:
    """As an untrained model says it, which the untouched model takes too."""
    token = case.model.config.image_token_id

    def only(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([token]), 0.0)

    attach_gaze(case.model, {"image": REGIONS | {"top_k": 1}})
    assert (answer(case, logits_processor=[only])[:, -6:] == token).all()


def test_gradients_flow_and_checkpointing_keeps_them(case: Case) -> None:
    attach_gaze(case.model, {"image": REGIONS | {"top_k": 1}})
    model = case.model.train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**case.inputs, labels=case.inputs["input_ids"]).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, recomputed = gradients
    assert any("vision" in name or "visual" in name for name in plain)
    assert all(p.abs().max() > 0 for name, p in plain.items() if "q_proj" in name and "language_model" in name)
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_detached_it_is_as_before(case: Case, tmp_path) -> None:
    before, names = logits(case), set(vars(case.model.config))
    handle = attach_gaze(case.model, {"image": REGIONS | {"top_k": 1}})
    assert not torch.equal(logits(case), before)
    handle.use(top_k=99)
    torch.testing.assert_close(logits(case), before, rtol=0, atol=1e-5)
    handle.detach()
    handle.detach()
    assert torch.equal(logits(case), before)
    assert set(vars(case.model.config)) == names


def test_a_saved_model_remembers_its_regions(case: Case, tmp_path) -> None:
    attach_gaze(case.model, {"image": REGIONS | {"top_k": 1}})
    routed = logits(case)
    case.model.save_pretrained(tmp_path)
    again = type(case.model).from_pretrained(tmp_path).eval()
    assert again.model.language_model.config._attn_implementation != "gaze"
    handle = attach_gaze(again)
    assert handle.config.image.top_k == 1
    torch.testing.assert_close(logits(case._replace(model=again)), routed)


def test_what_cannot_work_is_refused() -> None:
    case = qwen("qwen2_vl")
    budget = {"image": REGIONS | {"top_k": 1}}
    with pytest.raises(ValueError, match="'llama' model: where its visual tokens lie"):
        attach_gaze(LlamaForCausalLM(LlamaConfig(**{**_llama()})), budget)
    with pytest.raises(ValueError, match="give region size"):
        attach_gaze(case.model)
    with pytest.raises(ValueError, match="no context tokens"):
        attach_gaze(case.model, GazeConfig())
    with pytest.raises(ValueError, match="pre_rope"):
        attach_gaze(case.model, budget | {"descriptor_keys": "pre_rope"})
    foreign = case.model(**case.inputs, use_cache=True).past_key_values
    attach_gaze(case.model, budget)
    with pytest.raises(ValueError, match="already"):
        attach_gaze(case.model, budget)
    with pytest.raises(ValueError, match="of which this model's gaze has seen nothing"):
        case.model(input_ids=torch.tensor([[7], [8]]), past_key_values=foreign)
    with pytest.raises(ValueError, match="needs input_ids"):
        case.model(inputs_embeds=torch.zeros(1, 2, 32))
    with pytest.raises(ValueError, match="call the whole model"):
        case.model.model.language_model(inputs_embeds=torch.zeros(1, 2, 32))
    with pytest.raises(ValueError, match="static"):
        answer(case, cache_implementation="static")


def test_placeholders_and_pictures_that_disagree_are_counted() -> None:
    config = qwen("qwen2_vl").model.config
    ids = torch.tensor([[7, 3, 3, 3, 3, 8]])
    assert visuals_of(config, ids, {1: [[(1, 2, 2)]]}).grids == [(1, 2, 2)]
    assert visuals_of(config, ids.repeat(3, 1), {1: [[(1, 2, 2)]]}).grids == [(1, 2, 2)] * 3, "beams"
    with pytest.raises(ValueError, match="hold 4 image placeholders, but the 0 images encoded last have 0 tokens"):
        visuals_of(config, ids, {})
    with pytest.raises(ValueError, match="hold 4 image placeholders, but the 1 images encoded last have 6 tokens"):
        visuals_of(config, ids, {1: [[(1, 2, 3)]]})
    with pytest.raises(ValueError, match="finds 2 of the 3 placeholders"):
        visuals_of(config, torch.tensor([[3, 3], [3, 7]]), {1: [[(1, 1, 3)]]})


def _llama() -> dict[str, int]:
    return {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
