"""This model in other numbers: bfloat16 or float32 in one file, or decoder weights in 8 bits (torchao) or 4 (NF4 of
bitsandbytes, `models/quantised.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cambrian_gaze.extras import require
from cambrian_gaze.files import new_folder
from cambrian_gaze.models.folders.lineage import parent, write_lineage
from cambrian_gaze.models.folders.opening import open_config
from cambrian_gaze.models.generation_settings import settle
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.processing.processor import CambrianGazeProcessor
from cambrian_gaze.models.quantised import WHOLE, nf4

NUMBERS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def export_precision(kind: str, source: Path | str, out: Path | str) -> Path:
    """Write model and processor with their weights as `kind`: "bf16", "fp32", "int8" or "int4".

    Raises: ImportError where the quantiser is not installed, naming the pip command; ValueError for a model that is
    quantised already, or that has layers which cannot be.
    """
    with new_folder(out) as folder:
        model, processor = _loaded(kind, source), CambrianGazeProcessor.from_pretrained(source)
        settle(model, processor.tokenizer)
        model.save_pretrained(folder, max_shard_size="1000GB")
        processor.save_pretrained(folder)
        write_lineage(folder, f"export, {kind}", [parent("model", source)])
    return Path(out)


def _loaded(kind: str, source: Path | str) -> CambrianGazeForConditionalGeneration:
    config = open_config(source, copied="rewritten")
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{source} is quantised already; export the model that it was made from")
    options: dict[str, Any] = {"dtype": NUMBERS.get(kind, torch.bfloat16)}
    if kind == "int8":
        options["quantization_config"] = _int8()
    elif kind == "int4":
        options["quantization_config"] = nf4(config)
    return CambrianGazeForConditionalGeneration.from_pretrained(source, **options)


def _int8() -> Any:
    from transformers import TorchAoConfig

    quantization = require("torchao.quantization", "quant")
    return TorchAoConfig(quantization.Int8WeightOnlyConfig(), modules_to_not_convert=WHOLE)
