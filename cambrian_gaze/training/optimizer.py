"""Parameter groups: one per module that has a learning rate of its own, each with and without weight decay.

DeepSpeed's JSON holds no `optimizer` block: the Trainer would then pass one flat list and the groups would be lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

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


def frozen_parts(model: nn.Module) -> list[nn.Module]:
    """The largest modules of which no parameter is trained."""
    if not any(p.requires_grad for p in model.parameters()):
        return [model]
    return [part for child in model.children() for part in frozen_parts(child) if any(True for _ in part.parameters())]
