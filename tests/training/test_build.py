"""Starting points of a run: presets, language models, towers, exports of stage 1; and what is trained."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, SiglipVisionModel

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.training.build import build_model
from cambrian_gaze.training.checkpoint.projector import export_projector, load_projector
from cambrian_gaze.training.config.arguments import ModelArguments, TrainingArguments
from cambrian_gaze.training.config.gaze_arguments import GazeArguments
from cambrian_gaze.training.optimizer import MODULES, module_of


def build(tmp_path: Path, gaze: dict | None = None, stage: int = 2, **model: object):
    training = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, stage=stage)
    return build_model(ModelArguments(**model), GazeArguments(**(gaze or {})), training)


def trained(model: torch.nn.Module) -> set[str]:
    return {module_of(name) for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("stage", "options", "expected"),
    [
        (1, {}, {"mm_projector", "context_tokens"}),
        (1, {"tune_context_tokens": False}, {"mm_projector"}),
        (1, {"tune_mm_mlp_adapter": False}, {"mm_projector", "context_tokens", "decoder"}),
        (2, {}, {"mm_projector", "context_tokens", "decoder"}),
        (2, {"unfreeze_mm_vision_tower": True}, set(MODULES)),
        (2, {"freeze_backbone": True}, {"mm_projector", "context_tokens"}),
    ],
)
def test_each_stage_trains_its_parts(tmp_path: Path, stage: int, options: dict, expected: set[str]) -> None:
    model, _ = build(tmp_path, stage=stage, preset="tiny", **options)
    assert trained(model) == expected


def test_contradictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tune_mm_mlp_adapter"):
        build(tmp_path, stage=1, preset="tiny", unfreeze_mm_vision_tower=True)
    with pytest.raises(ValueError, match="model_name_or_path .* or preset"):
        build(tmp_path)
    with pytest.raises(ValueError, match="model_overrides is not JSON"):
        build(tmp_path, preset="tiny", model_overrides="{")


def test_a_model_is_built_around_a_language_model_and_a_tower(tmp_path: Path) -> None:
    donor, processor = build(tmp_path, preset="tiny")
    tower, decoder = str(tmp_path / "tower"), str(tmp_path / "decoder")
    SiglipVisionModel._from_config(donor.config.vision_config).save_pretrained(tower)
    causal = AutoModelForCausalLM.from_config(donor.config.text_config)
    causal.save_pretrained(decoder)
    processor.tokenizer.save_pretrained(decoder)
    model, built = build(tmp_path, model_name_or_path=decoder, vision_tower=tower, gaze={"region_size": [1, 2, 2]})
    for own, given in (
        (model.model.vision_tower, SiglipVisionModel.from_pretrained(tower)),
        (model.model.language_model, causal.model),
    ):
        state = own.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in given.state_dict().items() if name in state)
    assert model.config.image_token_id == built.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert built.grid_hw == (8, 8)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    small = json.dumps({"vision_config": {"model_type": "siglip_vision_model", **small}})
    with pytest.raises(ValueError, match="vision_tower .* does not fit"):
        build(tmp_path, preset="tiny", vision_tower=tower, model_overrides=small)


def test_a_dense_model_continues_from_one_with_context_tokens(tmp_path: Path) -> None:
    model, processor = build(tmp_path, preset="tiny")
    path = str(tmp_path / "model")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    dense, dense_processor = build(tmp_path, {"keep_ratio": 1.0, "num_context_tokens": 0}, model_name_or_path=path)
    assert dense.model.gaze.context_tokens is None
    assert dense.config.gaze_config.is_dense
    assert dense_processor.num_context_tokens == 0
    assert torch.equal(dense.lm_head.weight, model.lm_head.weight)
    with pytest.raises(ValueError, match="conv3x3"):
        build(tmp_path, model_name_or_path=path, mm_projector_type="conv3x3_mlp2x_gelu")


def test_other_numbers_of_context_tokens_are_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "model")
    for count in (4, 0):
        model, processor = build(tmp_path, {"num_context_tokens": count}, preset="tiny")
        model.save_pretrained(path)
        processor.save_pretrained(path)
        caplog.clear()
        other, other_processor = build(tmp_path, {"num_context_tokens": 4 - count}, model_name_or_path=path)
        said = "has 4 context tokens, which are left out" if count else "has no context tokens: the 4 of this run start"
        assert [said in record.getMessage() for record in caplog.records] == [True]
        assert "UNEXPECTED" not in (output := "".join(capfd.readouterr())) and "MISSING" not in output
        assert other.config.gaze_config.num_context_tokens == other_processor.num_context_tokens == 4 - count
        assert torch.equal(other.lm_head.weight, model.lm_head.weight)
    tokens = other.model.gaze.context_tokens
    assert tokens.requires_grad and tokens.std().item() == pytest.approx(0.7, rel=0.2)
    other.save_pretrained(path)
    with pytest.raises(ValueError, match="has 4 context tokens, not 8"):
        build(tmp_path, {"num_context_tokens": 8}, model_name_or_path=path)


def test_a_tower_behind_the_features_is_not_trained(tmp_path: Path) -> None:
    overrides = json.dumps({"vision_feature_layer": -2})
    model, _ = build(tmp_path, preset="tiny", unfreeze_mm_vision_tower=True, model_overrides=overrides)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[2] for name in frozen} == {"post_layernorm", "encoder"}
    pixels = torch.randn(1, 3, 64, 64)
    model.model.get_image_features(pixels).sum().backward()
    tower = dict(model.model.vision_tower.named_parameters())
    assert {f"model.vision_tower.{name}" for name, p in tower.items() if p.grad is None} == frozen


def test_the_export_of_stage_1_comes_back(tmp_path: Path) -> None:
    donor, _ = build(tmp_path, preset="tiny")
    path = export_projector(donor, tmp_path / "mm_projector.safetensors", step=7)
    assert set(load_file(path)) == {
        *(f"model.mm_projector.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")),
        "model.gaze.context_tokens",
    }
    model, _ = build(tmp_path, preset="tiny", pretrain_mm_mlp_adapter=str(path))
    assert torch.equal(model.model.mm_projector[2].weight, donor.model.mm_projector[2].weight)
    assert torch.equal(model.model.gaze.context_tokens, donor.model.gaze.context_tokens)
    dense = CambrianGazeForConditionalGeneration.from_preset("tiny", gaze={"num_context_tokens": 0})
    assert "left out" in load_projector(dense, path)[0]
    export_projector(dense, tmp_path / "dense.safetensors")
    assert "stay as initialised" in load_projector(model, tmp_path / "dense.safetensors")[0]


def test_an_export_that_does_not_fit_says_what_differs(tmp_path: Path) -> None:
    donor, _ = build(tmp_path, preset="tiny")
    path = export_projector(donor, tmp_path / "mm_projector.safetensors")
    other, _ = build(tmp_path, {"num_context_tokens": 2}, preset="tiny", mm_projector_type="conv3x3_mlp2x_gelu")
    with pytest.raises(ValueError) as error:
        load_projector(other, path)
    for part in (
        "model.gaze.context_tokens is (4, 96) in the file and (2, 96) in the model",
        "model.mm_projector.conv.weight is missing in the file",
        "mm_projector_type is 'mlp2x_gelu' in the file and 'conv3x3_mlp2x_gelu' here",
        "num_context_tokens is 4 in the file and 2 here",
    ):
        assert part in str(error.value)
    (tmp_path / "torn.safetensors").write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read"):
        load_projector(donor, tmp_path / "torn.safetensors")


def test_a_processor_is_a_processor(tmp_path: Path) -> None:
    _, processor = build(tmp_path, preset="tiny")
    assert isinstance(processor, CambrianGazeProcessor)
