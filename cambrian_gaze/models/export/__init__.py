"""A saved model in other forms: as a dense model of transformers (`dense.py`), in other numbers (`precision.py`).

Each form writes a new folder with its lineage; nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

FORMATS = {
    "llava": "dense, LlavaForConditionalGeneration: for engines that know LLaVA (K = all, |C| = 0)",
    "deepseek_vl": "dense, DeepseekVLForConditionalGeneration: bit for bit the same layers (K = all, |C| = 0)",
    "bf16": "this model in bfloat16, in one piece",
    "fp32": "this model in float32, in one piece",
    "int8": "this model, decoder weights in 8 bits (torchao)",
    "int4": "this model, decoder weights in 4 bits (NF4, bitsandbytes)",
}
"""Name → what it is."""


def export(name: str, source: Path | str, out: Path | str) -> Path:
    """Write the model in `source` (a folder, or a name on the hub) to the new folder `out`.

    Raises: ValueError for an unknown format and for a model that the format cannot express, with the reason;
    ValueError where `out` is not empty. Nothing is written then.
    """
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")
    return _writer(name)(name, source, out)


def _writer(name: str) -> Callable[[str, Path | str, Path | str], Path]:
    if name in ("llava", "deepseek_vl"):
        from cambrian_gaze.models.export.dense import export_dense

        return export_dense
    from cambrian_gaze.models.export.precision import export_precision

    return export_precision
