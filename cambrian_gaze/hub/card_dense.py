"""The card of a dense export (`models/export/dense.py`): what it was exported from and what is exact, from its lineage
and `config.json`. It needs no Cambrian-Gaze to run, and has no scores or run of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.folders.lineage import LINEAGE, read_lineage, without_places

LIMITS = {
    "llava": "LLaVA reads the tower before its last norm, so one more encoder layer carries that norm: the same "
    "function but for rounding. In bfloat16 features come out a little coarser than the original's; tower and "
    "projector in float32 avoid that.",
    "deepseek_vl": "The same tensors and the same layers as in the original.",
}
"""Model type → what is exact; docs/serving.md tells the same at length."""


def dense_layout(folder: Path) -> str | None:
    """The layout of a dense export, None for a model of this project.

    Raises: ValueError for a model of another type, or one without the lineage that an export writes.
    """
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind == CambrianGazeConfig.model_type:
        return None
    known = (folder / LINEAGE).is_file() and read_lineage(folder)["made_by"] == f"export, {kind}"
    if kind not in LIMITS or not known:
        raise ValueError(
            f"{folder} holds a {kind!r} model that no card can be made of: it is neither a Cambrian-Gaze model nor a "
            f"dense export with its {LINEAGE}; write a README.md there, which is pushed as it is"
        )
    return kind


def dense_body(repo_id: str, layout: str, lineage: Mapping[str, Any]) -> list[str]:
    """Sections of the card: what it is, how to use it, what is exact, where it comes from."""
    told = without_places(lineage)
    (source,) = told["parents"]
    of = source.get("lineage", {})
    rows = [("exported from", f"`{source['name']}`")]
    if weights := of.get("weights", source.get("weights")):
        rows.append(("its weights", f"`{weights}`"))
    if made_by := of.get("made_by"):
        rows.append(("made by", made_by))
    rows += [("these weights", f"`{told['weights']}`")]
    return [
        f"A [Cambrian-Gaze](https://arxiv.org/abs/2605.13080) model with K = all regions, for images, in the {layout} "
        "layout of transformers: each query attends to every visual token. It runs without Cambrian-Gaze, and has no "
        "gaze: a budget cannot be set.",
        f"""## Use

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{repo_id}")
processor = AutoProcessor.from_pretrained("{repo_id}")
```""",
        f"## What is exact\n\n{LIMITS[layout]}\n\nThe processor makes the same pixels"
        + (", but where pictures are padded it resizes before it pads." if layout == "deepseek_vl" else "."),
        "## Origin\n\n| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {value} |" for name, value in rows),
    ]
