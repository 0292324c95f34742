"""A tiny dense model without context tokens, one of gaze, and prompts of noise."""

import numpy as np
import torch
from PIL import Image

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor

OPTIONS = {
    "random": {"budget": 8},
    "uniform": {"budget": 8},
    "recent": {"budget": 8},
    "snapkv": {"budget": 8},
    "static_gaze": {"top_k": 2},
    "infinipot_v": {"budget": 8},
    "hermes": {"budget": 8},
    "fastv": {"layer": 1, "budget": 8},
    "rekv": {"top_k": 2, "block": "region"},
    "quest": {"top_k": 2},
    "avgpool2": {},
    "maxpool2": {},
    "downsample": {},
    "subsample": {},
}
"""Of every policy: 8 visual tokens, in layers that see less."""
COMPRESSED = {"avgpool2": (16, 32), "maxpool2": (16, 32), "downsample": (16, 32), "subsample": (64, 64)}
"""Those that have no budget: visual tokens that are left of one picture and of two."""


def make_model(context: int = 0) -> CambrianGazeForConditionalGeneration:
    torch.manual_seed(0)
    gaze = {"num_context_tokens": context, "image": {"region_size": [1, 2, 2], "keep_ratio": 1.0}}
    model = CambrianGazeForConditionalGeneration.from_preset("tiny", gaze=gaze).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_()
    return model


def make_processor(context: int = 0) -> CambrianGazeProcessor:
    gaze = {"num_context_tokens": context, "image": {"region_size": [1, 2, 2], "keep_ratio": 1.0}}
    return CambrianGazeProcessor.from_preset("tiny", gaze=gaze)


def noise(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def encode(processor, *rows):
    """Each row: pictures (numbers of noise) and texts, in their order."""
    messages = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": noise(part)}
                    for part in row
                ],
            }
        ]
        for row in rows
    ]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
