"""Parameter groups by module."""

from types import SimpleNamespace

import pytest
import torch
from transformers import SchedulerType

from cambrian_gaze import CambrianGazeForConditionalGeneration
from cambrian_gaze.training.optimizer import check_rates, check_schedule, follow_schedule, module_of, parameter_groups

ARGS = {
    "learning_rate": 4e-5,
    "mm_projector_lr": None,
    "mm_vision_tower_lr": None,
    "context_tokens_lr": None,
    "weight_decay": 0.1,
    "learning_rate_factor": 1.0,
}


@pytest.fixture(scope="module")
def model() -> CambrianGazeForConditionalGeneration:
    with torch.device("meta"):
        return CambrianGazeForConditionalGeneration.from_preset("tiny")


def groups(model: torch.nn.Module, **changes: object) -> dict[tuple[str, ...], dict]:
    decay = [name for name, p in model.named_parameters() if p.ndim > 1]
    found = parameter_groups(model, SimpleNamespace(**(ARGS | changes)), decay)
    parameters = [id(p) for group in found for p in group["params"]]
    assert sorted(parameters) == sorted(id(p) for p in model.parameters() if p.requires_grad), "each exactly once"
    return {(*group["modules"], group["weight_decay"]): group for group in found}


def test_modules_are_found_by_their_place_in_the_name() -> None:
    assert module_of("model.mm_projector.0.weight") == "mm_projector"
    assert module_of("model.vision_tower.encoder.layers.0.mlp.fc1.weight") == "vision_tower"
    assert module_of("model.gaze.context_tokens") == "context_tokens"
    assert module_of("model.language_model.layers.0.mlp.up_proj.weight") == "decoder"
    assert module_of("lm_head.weight") == "decoder"


def test_each_module_has_its_rate(model: torch.nn.Module) -> None:
    found = groups(model, mm_projector_lr=1e-3, mm_vision_tower_lr=2e-6, learning_rate_factor=2.0)
    rates = {name: group["lr"] for key, group in found.items() for name in key[:-1]}
    assert rates == pytest.approx({"vision_tower": 4e-6, "mm_projector": 2e-3, "context_tokens": 2e-3, "decoder": 8e-5})
    no_decay = next(group for key, group in found.items() if "context_tokens" in key)
    assert no_decay["weight_decay"] == 0.0


def test_rates_of_what_is_not_trained_are_refused(model: torch.nn.Module) -> None:
    check_rates(model, SimpleNamespace(**(ARGS | {"mm_vision_tower_lr": 2e-6, "context_tokens_lr": 1e-3})))
    for key, part, remedy in (
        ("mm_vision_tower_lr", model.model.vision_tower, "unfreeze_mm_vision_tower: true"),
        ("context_tokens_lr", model.model.gaze, "num_context_tokens above 0"),
    ):
        part.requires_grad_(False)
        check_rates(model, SimpleNamespace(**ARGS))
        with pytest.raises(ValueError, match=f"{key} 0.1: without effect.*{key}: null.*{remedy}"):
            check_rates(model, SimpleNamespace(**(ARGS | {key: 0.1})))
        part.requires_grad_(True)


def test_a_schedule_that_does_not_take_its_options_is_refused() -> None:
    def check(name: str, **options: float) -> None:
        check_schedule(SimpleNamespace(lr_scheduler_type=SchedulerType(name), lr_scheduler_kwargs=options))

    check("cosine")
    check("cosine_with_min_lr", min_lr=1e-6)
    with pytest.raises(ValueError, match='lr_scheduler_type cosine with {"min_lr": 1e-06}: .*unexpected keyword'):
        check("cosine", min_lr=1e-6)
    with pytest.raises(ValueError, match="lr_scheduler_type cosine_with_min_lr with {}: .*min_lr"):
        check("cosine_with_min_lr")


def test_equal_settings_share_a_group(model: torch.nn.Module) -> None:
    assert len(groups(model)) == 2
    assert len(groups(model, weight_decay=0.0)) == 1
    assert len(groups(model, weight_decay=0.0, mm_projector_lr=1e-3)) == 2


def test_frozen_parameters_are_in_no_group(model: torch.nn.Module) -> None:
    for parameter in model.model.vision_tower.parameters():
        parameter.requires_grad_(False)
    assert not any("vision_tower" in key for key in groups(model))


@pytest.mark.parametrize("rate", [0.01, torch.tensor(0.01)], ids=["number", "tensor"])
def test_rates_are_those_of_the_schedules_step(rate: float | torch.Tensor) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    optimizer.step()
    scheduler.step()
    (group,) = optimizer.param_groups
    expected, held = float(group["lr"]), group["lr"]
    group["lr"] = held.fill_(0.0) if isinstance(held, torch.Tensor) else 0.0  # as a checkpoint of an ended run has it
    follow_schedule(scheduler)
    told = scheduler.get_last_lr()
    assert float(group["lr"]) == expected == told[0] and type(group["lr"]) is type(held)
    assert not isinstance(held, torch.Tensor) or group["lr"] is held
    optimizer.step()
    scheduler.step()
    assert told[0] == expected and float(group["lr"]) == pytest.approx(0.005), "what was told does not change later"
