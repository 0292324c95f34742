"""This model in other numbers: bfloat16 or float32 in one file, or decoder weights in 8 bits (torchao) or 4 (NF4 of
bitsandbytes). Tower, projector, context tokens, embeddings and head are never quantised: they are small, and routing
reads keys that the decoder makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cambrian_gaze.extras import require
from cambrian_gaze.models.lineage import parent, write_lineage
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.processing import CambrianGazeProcessor
from cambrian_gaze.models.writing import new_folder

NUMBERS = {"bf16": torch.bfloat16, "fp32": torch.float32}
WHOLE = ["lm_head", "model.vision_tower", "model.mm_projector"]
"""Modules whose linear layers stay as they are."""
NF4_BLOCK = 64
"""Weights that share a scale; rows of a weight must be made of whole blocks where there is no GPU."""


def export_precision(kind: str, source: Path | str, out: Path | str) -> Path:
    """Write model and processor with their weights as `kind`: "bf16", "fp32", "int8" or "int4".

    Raises: ImportError where the quantiser is not installed, naming the pip command; ValueError for a model that is
    quantised already, or that has layers which cannot be.
    """
    with new_folder(out) as folder:
        model = _loaded(kind, source)
        model.save_pretrained(folder, max_shard_size="1000GB")
        CambrianGazeProcessor.from_pretrained(source).save_pretrained(folder)
        write_lineage(folder, f"export, {kind}", [parent("model", source)])
    return Path(out)


def _loaded(kind: str, source: Path | str) -> CambrianGazeForConditionalGeneration:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{source} is quantised already; export the model that it was made from")
    options: dict[str, Any] = {"dtype": NUMBERS.get(kind, torch.bfloat16)}
    if kind == "int8":
        options["quantization_config"] = _int8()
    elif kind == "int4":
        options["quantization_config"] = _int4(config)
    return CambrianGazeForConditionalGeneration.from_pretrained(source, **options)


def _int8() -> Any:
    from transformers import TorchAoConfig

    quantization = require("torchao.quantization", "quant")
    return TorchAoConfig(quantization.Int8WeightOnlyConfig(), modules_to_not_convert=WHOLE)


def _int4(config: Any) -> Any:
    from transformers import BitsAndBytesConfig

    require("bitsandbytes", "quant")
    text = config.text_config
    widths = {text.hidden_size, text.intermediate_size, text.num_attention_heads * text.head_dim}
    if odd := sorted(width for width in widths if width % NF4_BLOCK):
        raise ValueError(
            f"4 bits need layers whose width is a multiple of {NF4_BLOCK}, but the decoder has "
            f"{', '.join(map(str, odd))}; int8 takes any width"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=WHOLE,
    )
