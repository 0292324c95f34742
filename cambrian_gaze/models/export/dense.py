"""The dense model (K = all, |C| = 0) in layouts that transformers publishes, so that engines read it without this
package.

DeepSeek-VL computes the same thing: tower with its last norm, Linear, GELU, Linear, decoder. LLaVA takes the tower's
hidden states, which are from before that norm. There the norm becomes the second norm of one more encoder layer, whose
attention is zero and whose MLP is the identity, since gelu(a) - gelu(-a) = a. That layer adds norm(x) to x; the
projector is given both sums and subtracts them again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from cambrian_gaze.data.conversation import IMAGE_TOKEN
from cambrian_gaze.files import new_folder
from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.folders.lineage import parent, write_lineage
from cambrian_gaze.models.folders.opening import opening
from cambrian_gaze.models.generation_settings import settle
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.processing.processor import CambrianGazeProcessor
from cambrian_gaze.models.tower.published import SIGLIP

TOWER = "model.vision_tower."
GELUS = ("gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_python")
"""Activations with f(a) - f(-a) = a."""


def export_dense(layout: str, source: Path | str, out: Path | str) -> Path:
    """Write model and processor as `layout`, "llava" or "deepseek_vl"; images only. In the number format of `source`.

    Raises: ValueError naming everything that the layout cannot express.
    """
    with opening(source, copied="rewritten"):
        config = CambrianGazeConfig.from_pretrained(source)
    if reasons := inexpressible(config, layout):
        raise ValueError(f"{source} cannot be written as {layout}: " + "; ".join(reasons))
    with new_folder(out) as folder:
        model = CambrianGazeForConditionalGeneration.from_pretrained(source, dtype="auto")
        processor = CambrianGazeProcessor.from_pretrained(source)
        settle(model, processor.tokenizer)
        dense = to_llava(model) if layout == "llava" else to_deepseek_vl(model)
        dense.generation_config = model.generation_config
        dense.save_pretrained(folder)
        _processor(layout, processor, config, folder)
        write_lineage(folder, f"export, {layout}", [parent("model", source)])
    return Path(out)


def inexpressible(config: CambrianGazeConfig, layout: str) -> list[str]:
    """Why a model cannot be written in a dense layout; empty where it can."""
    reasons = []
    if count := config.gaze_config.num_context_tokens:
        reasons.append(
            f"it has {count} context tokens per image, which as queries see their own image alone; a causal decoder "
            "lets them see everything before"
        )
    if config.mm_projector_type != "mlp2x_gelu":
        reasons.append(f"its projector {config.mm_projector_type} shrinks the grid, and the layout has a plain MLP")
    vision = config.vision_config
    if vision.model_type != SIGLIP.model_type:
        reasons.append(f"its tower is a {vision.model_type}, not a {SIGLIP.model_type}")
    elif config.vision_feature_layer is not None:
        if layout == "deepseek_vl":
            reasons.append(f"it reads the tower's hidden state {config.vision_feature_layer}, the layout its last norm")
    elif layout == "llava":
        if vision.hidden_act not in GELUS:
            reasons.append(f"the tower's activation {vision.hidden_act} is none of {', '.join(GELUS)}")
        if vision.intermediate_size < 2 * vision.hidden_size:
            reasons.append(
                f"the tower's MLP has {vision.intermediate_size} units, and the last norm needs twice its width "
                f"{vision.hidden_size}"
            )
    return reasons


def to_deepseek_vl(model: CambrianGazeForConditionalGeneration) -> DeepseekVLForConditionalGeneration:
    """The same tensors under DeepSeek-VL's names."""
    names = {"vision_tower.": "vision_model."}
    names |= {"mm_projector.0.": "aligner.linear1.", "mm_projector.2.": "aligner.linear2."}
    config = DeepseekVLConfig(**_common(model.config))
    return _built(DeepseekVLForConditionalGeneration, config, _renamed(model, names), model.dtype)


def to_llava(model: CambrianGazeForConditionalGeneration) -> LlavaForConditionalGeneration:
    """The tensors under LLaVA's names; where the tower is read after its last norm, that as one more layer (see the
    module)."""
    prefix = "multi_modal_projector.linear_"
    names = {"mm_projector.0.": f"{prefix}1.", "mm_projector.2.": f"{prefix}2."}
    common, layer = _common(model.config), model.config.vision_feature_layer
    options = {"vision_feature_select_strategy": "full", "projector_hidden_act": "gelu"}
    if layer is not None:
        config = LlavaConfig(**common, vision_feature_layer=layer, **options)
        return _built(LlavaForConditionalGeneration, config, _renamed(model, names), model.dtype)
    common["vision_config"]["num_hidden_layers"] += 1
    config = LlavaConfig(**common, vision_feature_layer=[-2, -1], **options)
    tensors = _renamed(model, names) | _norm_as_layer(model)
    weight = tensors[f"model.{prefix}1.weight"]
    tensors[f"model.{prefix}1.weight"] = torch.cat([-weight, weight], dim=1)
    return _built(LlavaForConditionalGeneration, config, tensors, model.dtype)


def _common(config: CambrianGazeConfig) -> dict[str, Any]:
    vision, text = config.vision_config.to_dict(), config.text_config.to_dict()
    return {
        "vision_config": vision,
        "text_config": text,
        "image_token_id": config.image_token_id,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def _renamed(model: PreTrainedModel, names: dict[str, str]) -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in model.state_dict().items():
        for old, new in names.items():
            name = name.replace(f"model.{old}", f"model.{new}", 1) if name.startswith(f"model.{old}") else name
        tensors[name] = tensor
    return tensors


def _norm_as_layer(model: CambrianGazeForConditionalGeneration) -> dict[str, Tensor]:
    """One encoder layer that adds norm(x) to x."""
    own, vision = model.state_dict(), model.config.vision_config
    width, depth = vision.hidden_size, vision.num_hidden_layers
    last = f"encoder.layers.{depth - 1}."
    (stem,) = {name[: name.index(last)] for name in own if last in name and name.startswith(TOWER)}
    layer = {n[len(stem + last) :]: torch.zeros_like(t) for n, t in own.items() if n.startswith(stem + last)}
    layer["layer_norm1.weight"].fill_(1.0)
    for kind in ("weight", "bias"):
        layer[f"layer_norm2.{kind}"] = own[f"{stem}post_layernorm.{kind}"].clone()
    diagonal = torch.arange(width)
    layer["mlp.fc1.weight"][diagonal, diagonal] = layer["mlp.fc2.weight"][diagonal, diagonal] = 1.0
    layer["mlp.fc1.weight"][width + diagonal, diagonal] = layer["mlp.fc2.weight"][diagonal, width + diagonal] = -1.0
    return {f"{stem}encoder.layers.{depth}.{name}": tensor for name, tensor in layer.items()}


def _built(
    cls: type[PreTrainedModel], config: PreTrainedConfig, tensors: dict[str, Tensor], dtype: torch.dtype
) -> PreTrainedModel:
    """The model with these tensors, and no others of its own."""
    with torch.device("meta"):
        built = cls(config)
    built.load_state_dict(tensors, assign=True)  # strict: a name too many or too few is an error
    built.tie_weights()
    built.config.dtype = dtype
    return built.eval()


def _processor(layout: str, own: CambrianGazeProcessor, config: CambrianGazeConfig, folder: Path) -> None:
    """Write a processor that makes the same ids of messages and the same pixels; but DeepSeek-VL's, where ours pads,
    resizes before it pads."""
    images, pads = own.image_processor, own.image_aspect_ratio == "pad"
    side = config.vision_config.image_size
    common = {"image_mean": images.image_mean, "image_std": images.image_std, "size": {"height": side, "width": side}}
    if layout == "llava":
        crop = {"do_center_crop": False, "crop_size": common["size"]}
        image_processor = LlavaImageProcessorPil(**common, **crop, do_pad=pads)
        options = {"patch_size": config.vision_config.patch_size, "vision_feature_select_strategy": "full"}
        options |= {"image_token": IMAGE_TOKEN}
        processor = LlavaProcessor(image_processor, own.tokenizer, chat_template=own.chat_template, **options)
    else:
        own.tokenizer.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, extra_special_tokens={"image_token": IMAGE_TOKEN})
        kind = DeepseekVLImageProcessorPil if pads else SiglipImageProcessorPil  # which stretches
        image_processor = kind(**common)
        tokens = config.grid[0] * config.grid[1]
        processor = DeepseekVLProcessor(
            image_processor, tokenizer, chat_template=own.chat_template, num_image_tokens=tokens
        )
    processor.save_pretrained(folder)
