"""LoRA in a run: which options go together, how the frozen decoder is held, and the adapters themselves."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import REPOCARD_NAME
from torch import nn

from cambrian_gaze.extras import require
from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.quantised import int8, nf4
from cambrian_gaze.training.config.arguments import ModelArguments
from cambrian_gaze.training.config.gaze_arguments import GazeArguments
from cambrian_gaze.training.config.lora_arguments import LINEAR_LAYERS, LoraArguments

BESIDE = ("model.mm_projector", "model.gaze")
"""Modules that train whole beside the adapters, and are saved with them: projector and context tokens."""


def check_lora(model: ModelArguments, gaze: GazeArguments, stage: int, continues: bool) -> None:
    """Raises: ValueError where options cannot go with `lora_enable`, naming the remedy.

    Args:
        continues: whether `model_name_or_path` is a Cambrian-Gaze model.
    """
    if not continues:
        raise ValueError(
            "lora_enable adapts a saved Cambrian-Gaze model, so that the adapter has weights to be loaded over; give "
            "one as model_name_or_path (cambrian-gaze init makes it of a language model and a tower)"
        )
    if model.vision_tower is not None or model.unfreeze_mm_vision_tower:
        raise ValueError(
            "lora_enable leaves the vision tower as the base has it, and an adapter does not hold it: drop "
            "vision_tower and unfreeze_mm_vision_tower, or train without lora_enable"
        )
    if stage == 1 or model.tune_mm_mlp_adapter or model.freeze_backbone:
        raise ValueError(
            "lora_enable trains the decoder by adapters; stage 1, tune_mm_mlp_adapter and freeze_backbone say that it "
            "is not trained: give one or the other"
        )
    if not model.tune_context_tokens and (gaze.num_context_tokens or model.pretrain_mm_mlp_adapter):
        raise ValueError(
            "tune_context_tokens: false leaves the context tokens out of the adapter, so they must be the base's: drop "
            "num_context_tokens and pretrain_mm_mlp_adapter, or train the context tokens"
        )


def quantisation(lora: LoraArguments, config: CambrianGazeConfig, compute: torch.dtype) -> dict[str, Any]:
    """What `bits` means to `from_pretrained`; nothing for 16."""
    if lora.bits == 16:
        return {}
    return {"quantization_config": int8() if lora.bits == 8 else nf4(config, compute, lora.double_quant)}


def attach(model: nn.Module, lora: LoraArguments) -> nn.Module:
    """A `PeftModel` around `model` that trains adapters of the decoder, and of `BESIDE` what is trained already.

    Raises: ImportError without peft; ValueError where `lora_target` names no linear layer of the decoder.
    """
    peft = require("peft", "peft")
    layers = model.model.language_model.layers
    present = {name.rsplit(".", 1)[-1] for name, part in layers.named_modules() if isinstance(part, nn.Linear)}
    names = [name for name in LINEAR_LAYERS if name in present] if lora.lora_target is None else lora.lora_target
    if unknown := sorted(set(names) - present):
        raise ValueError(
            f"lora_target: the decoder has no linear layers {', '.join(unknown)}; choose from "
            + ", ".join(sorted(present))
        )
    beside = [name for name in BESIDE if any(p.requires_grad for p in model.get_submodule(name).parameters())]
    config = peft.LoraConfig(
        r=lora.lora_r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        # The tower's layers have the same names.
        target_modules=rf"model\.language_model\.layers\.\d+\..*\.({'|'.join(map(re.escape, names))})",
        modules_to_save=beside,
    )
    adapted = peft.get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            # The frozen weights may be in bfloat16, in which small steps would be lost.
            parameter.data = parameter.data.float()
    return adapted


@contextlib.contextmanager
def without_peft_card(folder: Path | str) -> Iterator[None]:
    """Saving an adapter in the block leaves `README.md` as it was: peft writes a template with nothing filled in, and
    its metadata into a card that is there."""
    card = Path(folder) / REPOCARD_NAME
    own = card.read_bytes() if card.exists() else None
    yield
    if own is None:
        card.unlink(missing_ok=True)
    elif card.read_bytes() != own:
        card.write_bytes(own)


def is_adapted(model: nn.Module) -> bool:
    """Whether `attach` made this model."""
    return hasattr(model, "peft_config")
