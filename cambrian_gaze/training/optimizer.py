"""Parameter groups: one per module that has a learning rate of its own, each with and without weight decay.

DeepSpeed's JSON holds no `optimizer` block: the Trainer would then pass one flat list and the groups would be lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

DECODER, PROJECTOR, CONTEXT, TOWER = "decoder", "mm_projector", "context_tokens", "vision_tower"
MODULES = (DECODER, PROJECTOR, CONTEXT, TOWER)
"""Names of the groups, in their order."""

_OWN_RATES = {"mm_projector_lr": PROJECTOR, "context_tokens_lr": CONTEXT, "mm_vision_tower_lr": TOWER}
_TRAINED_BY = {
    PROJECTOR: "it always is",
    CONTEXT: "num_context_tokens above 0, and no tune_context_tokens: false",
    TOWER: "unfreeze_mm_vision_tower: true",
}


def module_of(name: str) -> str:
    """The group of a parameter, by its name in `model.named_parameters()`."""
    parts = name.split(".")
    return next((module for module in (PROJECTOR, CONTEXT, TOWER) if module in parts), DECODER)


def learning_rates(args: Any) -> dict[str, float]:
    """Learning rate of each group. The projector's and the tower's default to `learning_rate`, the context tokens' to
    the projector's; all are scaled by `args.learning_rate_factor`."""
    projector = args.mm_projector_lr if args.mm_projector_lr is not None else args.learning_rate
    rates = {
        DECODER: args.learning_rate,
        PROJECTOR: projector,
        CONTEXT: args.context_tokens_lr if args.context_tokens_lr is not None else projector,
        TOWER: args.mm_vision_tower_lr if args.mm_vision_tower_lr is not None else args.learning_rate,
    }
    return {module: rate * args.learning_rate_factor for module, rate in rates.items()}


def check_rates(model: nn.Module, args: Any) -> None:
    """Raises ValueError for a learning rate of a module that is not trained."""
    trained = {module_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    for key, module in _OWN_RATES.items():
        if getattr(args, key) is not None and module not in trained:
            raise ValueError(
                f"{key} {getattr(args, key)}: without effect, since this run does not train the {module}; leave it out "
                f"({key}: null), or train it ({_TRAINED_BY[module]})"
            )


def check_schedule(args: Any) -> None:
    """Raises ValueError where the schedule of learning rates does not take its options."""
    one = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        get_scheduler(args.lr_scheduler_type, one, 1, 2, scheduler_specific_kwargs=args.lr_scheduler_kwargs)
    except (TypeError, ValueError) as error:
        options = json.dumps(args.lr_scheduler_kwargs)
        raise ValueError(f"lr_scheduler_type {args.lr_scheduler_type.value} with {options}: {error}") from error


def follow_schedule(scheduler: Any) -> None:
    """Set the learning rates that the schedule has at its step. After a checkpoint was loaded they are those of the run
    before, which for a run that is extended have ended at 0."""
    scheduler = getattr(scheduler, "scheduler", scheduler)
    if not isinstance(scheduler, LambdaLR):
        return
    groups = scheduler.optimizer.param_groups
    for group, base, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        rate = base * factor(scheduler.last_epoch)
        if isinstance(group["lr"], torch.Tensor):  # torchao's compiled steps keep this very tensor
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    scheduler._last_lr = [float(group["lr"]) for group in groups]


def parameter_groups(model: nn.Module, args: Any, decay_names: Iterable[str]) -> list[dict[str, Any]]:
    """Groups of the trainable parameters. Modules of the same learning rate and weight decay share one: under ZeRO
    every group costs collectives of its own at each step.

    Args:
        model: the bare model.
        args: `TrainingArguments`.
        decay_names: parameters under weight decay. Context tokens never are, whatever this says: they are embeddings.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `modules`, the names of those they hold.
    """
    decay = set(decay_names)
    rates = learning_rates(args)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        module = module_of(name)
        weight_decay = args.weight_decay if name in decay and module != CONTEXT else 0.0
        key = (rates[module], weight_decay)
        group = groups.setdefault(key, {"params": [], "lr": key[0], "weight_decay": key[1], "modules": []})
        group["params"].append(parameter)
        if module not in group["modules"]:
            group["modules"].append(module)
    # The decoder first: Trainer logs the first group's rate as `learning_rate`.
    return sorted(groups.values(), key=lambda group: DECODER not in group["modules"])


def build_optimizer(
    kind: tuple[type[Optimizer], dict[str, Any]], model: nn.Module, args: Any, decay_names: Iterable[str]
) -> tuple[Optimizer, list[list[str]]]:
    """The optimizer over `parameter_groups`, and the modules of each of its groups.

    Args:
        kind: its class and options.

    Raises: ValueError for a class that makes groups of its own, and where nothing is trained.
    """
    cls, options = kind
    if options.keys() & {"params", "model", "optimizer_dict"}:
        raise ValueError(f"optim={args.optim} builds its own parameter groups; use an AdamW or SGD variant")
    groups = parameter_groups(model, args, decay_names)
    if not groups:
        raise ValueError("every parameter is frozen; check tune_mm_mlp_adapter and freeze_backbone")
    modules = [group["modules"] for group in groups]
    return cls(groups, **options), modules


def rates_by_module(modules: Sequence[Sequence[str]], rates: Sequence[float]) -> dict[str, float]:
    """`lr/MODULE` → learning rate, from the modules and the rate of each group."""
    return {f"lr/{name}": float(rate) for names, rate in zip(modules, rates, strict=True) for name in names}


def take_evaluation_weights(optimizer: Any) -> None:
    """Schedule-free optimizers keep two sets of weights; the next training step takes the others again."""
    if callable(getattr(optimizer, "eval", None)):
        optimizer.eval()


def frozen_parts(model: nn.Module) -> list[nn.Module]:
    """The largest modules of which no parameter is trained."""
    if not any(p.requires_grad for p in model.parameters()):
        return [model]
    return [part for child in model.children() for part in frozen_parts(child) if any(True for _ in part.parameters())]


def set_training_modes(model: nn.Module, frozen: Iterable[nn.Module], adds_noise: bool) -> None:
    """Frozen modules compute as they will when the model is used (no dropout); NEFTune's noise is added to embeddings
    in training mode alone, frozen or not."""
    for part in frozen:
        part.eval()
    if adds_noise:
        model.get_input_embeddings().train()
