"""Parameter groups: one per module that has a learning rate of its own, each with and without weight decay.

DeepSpeed's JSON holds no `optimizer` block: the Trainer would then pass one flat list and the groups would be lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

DECODER, PROJECTOR, CONTEXT, TOWER = "decoder", "mm_projector", "context_tokens", "vision_tower"
MODULES = (DECODER, PROJECTOR, CONTEXT, TOWER)
"""Names of the groups, in their order."""


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
