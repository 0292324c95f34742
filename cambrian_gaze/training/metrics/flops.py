"""FLOPs that training needs by its configuration, and the peaks of devices, for model FLOPs utilisation (MFU).

Matrix products only, two FLOPs per multiply-add; recomputation under activation checkpointing is not counted, which is
the usual meaning of MFU. Attention is counted as dense and causal, whatever the budget: savings by routing show as a
higher MFU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cambrian_gaze.training.optimizer import CONTEXT, DECODER, PROJECTOR, TOWER, module_of

PEAK_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A40": 150.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Dense bf16 tensor-core peaks by vendors' data sheets. The first name that the device's name contains holds."""

UNUSED = "original_module"
"""Name of the copy that peft keeps of a module which trains whole beside adapters."""


def peak_flops(device: torch.device, given_tflops: float | None) -> float | None:
    """Peak FLOP/s of one device: the given one, or the table's for a GPU, else None."""
    if given_tflops is not None:
        return given_tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for key, peak in PEAK_TFLOPS.items() if key in name), None)


@dataclass(frozen=True)
class FlopsModel:
    """FLOPs of one forward and backward pass per unit of input."""

    per_token: float
    """Per token of the decoder, its output layer included."""

    per_squared_token: float
    """Attention of the decoder, per (tokens of a row)²."""

    per_image: float
    """Vision tower and projector, per image or frame."""

    head_per_token: float = 0.0
    """Of `per_token`, the output layer's."""

    projector_per_image: float = 0.0
    """Of `per_image`, the projector's."""

    @classmethod
    def of(cls, model: nn.Module) -> FlopsModel:
        """Read the sizes off the model. A part that is frozen has no weight gradients; one that also has nothing
        trainable before it has no backward pass at all (the vision tower of stage 1)."""
        config = model.config.get_text_config()
        embeddings = {id(model.get_input_embeddings().weight)}
        output = model.get_output_embeddings()
        sizes = dict.fromkeys((DECODER, TOWER, PROJECTOR, CONTEXT), 0)
        trained, trains = dict(sizes), dict.fromkeys(sizes, False)
        for name, parameter in model.named_parameters():
            if UNUSED in name.split("."):
                continue
            module = module_of(name)
            trains[module] |= parameter.requires_grad
            if parameter.ndim > 1 and id(parameter) not in embeddings and "position_embedding" not in name:
                sizes[module] += parameter.numel()
                trained[module] += parameter.numel() * parameter.requires_grad
        head = 0 if output is None else output.weight.numel()
        head_trained = 0 if output is None else head * output.weight.requires_grad
        if output is not None and id(output.weight) in embeddings:
            sizes[DECODER] += head
            trained[DECODER] += head_trained
        vision = model.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        passes = {
            TOWER: 6 if trains[TOWER] else 2,
            PROJECTOR: 6 if trains[TOWER] else 4 if trains[PROJECTOR] else 2,
        }
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        width = config.num_attention_heads * head_dim
        tower_attention = 2 * vision.num_hidden_layers * vision.hidden_size * patches * patches
        # A projector that shrinks the grid first runs on what is left of it.
        rows, columns = model.config.grid
        projected = rows * columns if model.config.mm_conv_position == "before_mlp" else patches
        projector = float(passes[PROJECTOR] * sizes[PROJECTOR] * projected)
        return cls(
            per_token=float(4 * sizes[DECODER] + 2 * trained[DECODER]),
            per_squared_token=3.0 * 2 * config.num_hidden_layers * width,
            per_image=float(passes[TOWER] * (sizes[TOWER] * patches + tower_attention)) + projector,
            head_per_token=float(4 * head + 2 * head_trained),
            projector_per_image=projector,
        )

    def total(self, tokens: float, squared_tokens: float, images: float, supervised: float | None = None) -> float:
        """FLOPs of a batch: its tokens, the sum of (tokens of a row)², its images and frames, and how many tokens the
        output layer is computed for (default: all)."""
        flops = self.per_token * tokens + self.per_squared_token * squared_tokens + self.per_image * images
        return flops if supervised is None else flops - self.head_per_token * (tokens - supervised)
