"""bitsandbytes' 4 and 8 bits for the decoder's linear layers, as options of `from_pretrained`.

Tower, projector, context tokens, embeddings and head are never quantised: they are small, and routing reads keys that
the decoder makes.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig

from cambrian_gaze.extras import require
from cambrian_gaze.models.configuration import CambrianGazeConfig

WHOLE = ["lm_head", "model.vision_tower", "model.mm_projector"]
"""Modules whose linear layers stay as they are."""
NF4_BLOCK = 64
"""Weights that share a scale; rows of a weight must be made of whole blocks where there is no GPU."""


def nf4(config: CambrianGazeConfig, compute: torch.dtype = torch.bfloat16, double: bool = False) -> Any:
    """Options for weights in NF4 that are multiplied as `compute`; `double` quantises the scales too.

    Raises: ImportError without bitsandbytes; ValueError for a decoder whose widths are not made of whole blocks.
    """
    require("bitsandbytes", "quant")
    text = config.text_config
    widths = {text.hidden_size, text.intermediate_size, text.num_attention_heads * text.head_dim}
    if odd := sorted(width for width in widths if width % NF4_BLOCK):
        raise ValueError(
            f"4 bits need layers whose width is a multiple of {NF4_BLOCK}, but the decoder has "
            f"{', '.join(map(str, odd))}; 8 bits take any width"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=WHOLE,
    )


def int8() -> Any:
    """Options for weights in int8 (LLM.int8). Raises: ImportError without bitsandbytes."""
    require("bitsandbytes", "quant")
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=WHOLE)
