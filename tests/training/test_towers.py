"""Training around towers of other families than SigLIP."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cambrian_gaze import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.conversion.initialise import initialise
from cambrian_gaze.training.build import build_model
from cambrian_gaze.training.config.arguments import ModelArguments, TrainingArguments
from cambrian_gaze.training.config.gaze_arguments import GazeArguments
from cambrian_gaze.training.optimizer import CONTEXT, PROJECTOR, TOWER, module_of
from tests.models._checkpoints import GAZE, write_clip, write_dinov2, write_language_model
from tests.training._ranks import launch
from tests.training._runs import flags, run

TOWERS = [write_clip, write_dinov2]


@pytest.mark.parametrize("write", TOWERS)
def test_a_model_is_built_around_it(write: Callable, tmp_path: Path) -> None:
    """The layer, statistics and weights of its family, and nothing that trains in vain."""
    given = write(tmp_path / "tower")
    write_language_model(tmp_path / "llm")
    parts = {"model_name_or_path": str(tmp_path / "llm"), "vision_tower": str(tmp_path / "tower")}
    arguments = ModelArguments(**parts, unfreeze_mm_vision_tower=True)
    training = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    model, processor = build_model(arguments, GazeArguments(region_size=[1, 2, 2]), training)
    family = model.config.tower_family
    assert model.config.vision_feature_layer == family.feature_layer
    assert tuple(processor.image_processor.image_mean) == family.image_mean
    state = model.model.vision_tower.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in given.state_dict().items())
    model.model.get_image_features(torch.randn(1, 3, 32, 32)).sum().backward()
    tower = [(p.requires_grad, p.grad is not None) for n, p in model.named_parameters() if module_of(n) == TOWER]
    assert all(trains == reached for trains, reached in tower) and len(set(tower)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("write", TOWERS)
def test_stage_1_then_a_tower_that_trains_on(write: Callable, pages: Path, tmp_path: Path) -> None:
    """Also killed and resumed: the weights of a checkpoint are found by the names in memory."""
    write(tmp_path / "tower")
    write_language_model(tmp_path / "llm")
    start, one = tmp_path / "model", tmp_path / "one"
    initialise(start, str(tmp_path / "llm"), str(tmp_path / "tower"), overrides=GAZE, progress=False)
    options = {"preset": None, "model_overrides": None, "save_steps": 1, "max_steps": 2}
    assert run(flags(pages, one, model_name_or_path=start, stage=1, **options)) == 0
    before, after = map(CambrianGazeForConditionalGeneration.from_pretrained, (start, one))
    old = dict(before.named_parameters())
    changed = {module_of(name) for name, p in after.named_parameters() if not torch.equal(p, old[name])}
    assert changed == {PROJECTOR, CONTEXT}
    options |= {"model_name_or_path": one, "stage": 2, "unfreeze_mm_vision_tower": True}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert launch(1, run, flags(pages, whole, **options)) == [0]
    assert launch(1, run, flags(pages, broken, **options), 2) == [-signal.SIGKILL]
    assert launch(1, run, flags(pages, broken, **options)) == [0]
    trained, resumed = (load_file(folder / "model.safetensors") for folder in (whole, broken))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in trained.items())
    patches = next(name for name in trained if "patch_embedding" in name)
    assert not torch.equal(trained[patches], after.get_parameter(patches))
