"""Model and processor of a run, and which parameters it trains."""

from __future__ import annotations

import dataclasses
import json
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.conversion.backbones import (
    assemble_config,
    check_parts,
    language_model_part,
    load_part,
    read_vision_config,
    refuse_other_kinds,
    resolve,
    vision_tower_part,
)
from cambrian_gaze.models.folders.opening import open_config, open_processor, open_tokenizer, said_of
from cambrian_gaze.models.generation_settings import settings_from, settle
from cambrian_gaze.models.loading import load_model
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.presets import PRESETS, load_tokenizer
from cambrian_gaze.models.processing.processor import CambrianGazeProcessor
from cambrian_gaze.models.tower.family import statistics_of
from cambrian_gaze.training.adapters import attach, check_lora, quantisation
from cambrian_gaze.training.checkpoint.projector import load_projector
from cambrian_gaze.training.config.arguments import ModelArguments, TrainingArguments
from cambrian_gaze.training.config.gaze_arguments import GazeArguments
from cambrian_gaze.training.config.lora_arguments import LoraArguments
from cambrian_gaze.training.optimizer import CONTEXT, PROJECTOR, TOWER, module_of

logger = logging.getLogger(__name__)


def build_model(
    args: ModelArguments, gaze: GazeArguments, training: TrainingArguments, lora: LoraArguments | None = None
) -> tuple[nn.Module, CambrianGazeProcessor]:
    """The model with its weights and frozen parts, and the processor that fits it. With `lora_enable` a `PeftModel`.

    `model_name_or_path` names a Cambrian-Gaze model, or a language model around which one is built; without it the
    weights of `preset` are fresh. Raises ValueError where parts do not fit each other.
    """
    own = open_config(args.model_name_or_path) if args.model_name_or_path else None
    continues = isinstance(own, CambrianGazeConfig)
    lora = LoraArguments() if lora is None else lora
    if lora.lora_enable:
        check_lora(args, gaze, training.stage, continues)
    with _about(args):
        config = run_config(args, gaze, own)
    dtype = torch.bfloat16 if training.bf16 and (training.deepspeed or lora.lora_enable) else torch.float32
    processor = build_processor(args, config, continues)
    if continues:
        model = load_model(args.model_name_or_path, config, dtype, **quantisation(lora, config, dtype))
        settle(model, processor.tokenizer)
    else:
        folder = None if own is None else resolve(args.model_name_or_path)
        with _about(args):
            part = None if folder is None else language_model_part(folder, config.tie_word_embeddings)
            check_parts(config, [] if part is None else [part])
        model = CambrianGazeForConditionalGeneration(config).to(dtype)
        if part is not None:
            load_part(model, part)
        model.generation_config, notes = settings_from(folder, config, processor.tokenizer)
        for note in notes:
            logger.info("%s", note)
    if args.vision_tower is not None:
        load_vision_tower(model, args.vision_tower)
    if args.pretrain_mm_mlp_adapter is not None:
        for message in load_projector(model, args.pretrain_mm_mlp_adapter):
            logger.warning(message)
    if args.attn_implementation is not None:
        model.model.vision_tower.set_attn_implementation(args.attn_implementation)
    return finish(model, args, training.stage, lora), processor


def build_shapes(
    args: ModelArguments, gaze: GazeArguments, training: TrainingArguments, lora: LoraArguments | None = None
) -> nn.Module:
    """The model of `build_model` on the meta device: sizes and frozen parts, no weights. Where there is a `preset` it
    gives the sizes, and nothing is read or downloaded.

    Raises: ValueError for quantised weights, whose sizes the meta device does not tell.
    """
    lora = LoraArguments() if lora is None else lora
    if lora.bits != 16:
        raise ValueError(f"the sizes of weights in {lora.bits} bits are not known beforehand; leave bits out")
    if args.preset is not None:
        args = dataclasses.replace(args, model_name_or_path=None, vision_tower=None)
    own = open_config(args.model_name_or_path) if args.model_name_or_path else None
    with torch.device("meta"):
        with _about(args):
            model = CambrianGazeForConditionalGeneration(run_config(args, gaze, own))
        return finish(model, args, training.stage, lora)


def _about(args: ModelArguments) -> AbstractContextManager[None]:
    """Errors of the block, which makes a model, as those of the folder that it is made of."""
    return nullcontext() if args.model_name_or_path is None else said_of(f"no model of {args.model_name_or_path}")


def finish(model: nn.Module, args: ModelArguments, stage: int, lora: LoraArguments) -> nn.Module:
    """`model` with its frozen parts, and with adapters where `lora_enable` asks for them."""
    if not lora.lora_enable:
        choose_trainable(model, args, stage)
        return model
    choose_trainable(model, dataclasses.replace(args, freeze_backbone=True), stage)
    return attach(model, lora)


def run_config(args: ModelArguments, gaze: GazeArguments, own: PreTrainedConfig | None) -> CambrianGazeConfig:
    """`own`, that of `model_name_or_path`, or a new one around it, under the options of the run."""
    continues = isinstance(own, CambrianGazeConfig)
    config = own if continues else new_config(args, own)
    if continues and args.mm_projector_type not in (None, config.mm_projector_type):
        raise ValueError(
            f"{args.model_name_or_path} has the projector {config.mm_projector_type}, not {args.mm_projector_type}; "
            "drop mm_projector_type, or start from the language model"
        )
    if args.mm_projector_type is not None:
        config.mm_projector_type = args.mm_projector_type
    config.gaze = gaze.apply(config.gaze_config).to_dict()
    return config


def new_config(args: ModelArguments, language_model: PreTrainedConfig | None) -> CambrianGazeConfig:
    """Configuration of a fresh model: the preset's sizes, or those of the parts that are given."""
    overrides = parse_overrides(args.model_overrides)
    text_config = vision_config = tokenizer = None
    if language_model is not None:
        text_config = language_model.get_text_config()
        refuse_other_kinds(text_config, args.model_name_or_path)
        tokenizer = open_tokenizer(args.tokenizer_name_or_path or args.model_name_or_path)
    elif args.preset is None:
        known = ", ".join(PRESETS)
        raise ValueError(f"give model_name_or_path (a Cambrian-Gaze or language model) or preset ({known})")
    if args.vision_tower is not None:
        vision_config = read_vision_config(args.vision_tower)
    return assemble_config(args.preset, overrides, text_config, vision_config, tokenizer)


def parse_overrides(text: str | None) -> dict[str, Any]:
    """The JSON object of `model_overrides`."""
    try:
        overrides = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f"model_overrides is not JSON: {error}") from error
    if not isinstance(overrides, dict):
        raise ValueError(f"model_overrides must be a JSON object, got {text!r}")
    return overrides


def load_vision_tower(model: CambrianGazeForConditionalGeneration, path: str) -> None:
    """Copy a checkpoint's weights into the vision tower.

    Raises: ValueError naming what differs.
    """
    try:
        load_part(model, vision_tower_part(resolve(path)))
    except ValueError as error:
        raise ValueError(f"vision_tower {path} does not fit the model: {error}") from error


def choose_trainable(model: nn.Module, args: ModelArguments, stage: int) -> None:
    """Set `requires_grad`: stage 1 trains projector and context tokens, stage 2 all but the vision tower."""
    only_adapter = stage == 1 if args.tune_mm_mlp_adapter is None else args.tune_mm_mlp_adapter
    freeze_decoder = only_adapter if args.freeze_backbone is None else args.freeze_backbone
    if only_adapter and (args.unfreeze_mm_vision_tower or not freeze_decoder):
        raise ValueError(
            "tune_mm_mlp_adapter (the default in stage 1) trains the projector and context tokens alone; set it to "
            "false to train the vision tower or the decoder as well"
        )
    trains = {PROJECTOR: True, CONTEXT: args.tune_context_tokens, TOWER: args.unfreeze_mm_vision_tower}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains.get(module_of(name), not freeze_decoder))
    config = model.config
    for unused in config.tower_family.unused(model.model.vision_tower, config.vision_feature_layer):
        unused.requires_grad_(False)  # it would wait for a gradient that never comes


def build_processor(args: ModelArguments, config: CambrianGazeConfig, continues: bool) -> CambrianGazeProcessor:
    """The checkpoint's processor, or one made of a tokenizer; grid and |C| always follow the model, and
    `image_aspect_ratio` the run where it says one."""
    source = args.tokenizer_name_or_path or args.model_name_or_path
    if continues:
        processor = open_processor(source)
        if isinstance(processor, CambrianGazeProcessor):
            processor.num_context_tokens = config.gaze_config.num_context_tokens
            processor.grid = list(config.grid)
            if args.image_aspect_ratio not in (None, processor.image_aspect_ratio):
                logger.warning(
                    "%s was trained with image_aspect_ratio %s; from here on it is %s",
                    *(args.model_name_or_path, processor.image_aspect_ratio, args.image_aspect_ratio),
                )
                processor.image_aspect_ratio = args.image_aspect_ratio
            return processor
    tokenizer = load_tokenizer(args.preset) if source is None else open_tokenizer(source)
    statistics = None if args.vision_tower is None else statistics_of(resolve(args.vision_tower))
    return CambrianGazeProcessor.from_config(config, tokenizer, args.image_aspect_ratio or "square", statistics)
