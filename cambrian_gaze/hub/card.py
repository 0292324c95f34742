"""The model card: what the files of a run say about its model, and nothing else. What is not known is left out or said
to be unknown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from cambrian_gaze.gaze.config import BUDGET_FIELDS, RegionBudget
from cambrian_gaze.gaze.cost import attended_visual
from cambrian_gaze.hub.card_dense import dense_body, dense_layout
from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.folders.lineage import LINEAGE, code_text, read_lineage
from cambrian_gaze.training.metrics.log import LOG_NAME, read_log

CARD = "README.md"
PICTURE = "gaze.png"
_TOLD = ("stage", "learning_rate", "mm_projector_lr", "mm_vision_tower_lr", "lr_scheduler_type", "warmup_ratio")
_TOLD += ("weight_decay", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps")
_TOLD += ("max_length", "bf16", "seed", "tune_mm_mlp_adapter", "unfreeze_mm_vision_tower", "progressive")
"""Keys of `run_config.json` that the card repeats: none that names a place on the machine."""


@dataclass(frozen=True)
class Score:
    """One line of the table of scores."""

    name: str
    value: float | None
    interval: tuple[float, float] | None
    count: int | None
    attended: float | None
    """Visual and context KV entries per query, as counted."""
    of: float | None
    status: str


def read_scores(path: Path | str) -> list[Score]:
    """The scores in a results file: `scores.json` of an evaluation, or the quickstart's `results.json`.

    Raises: ValueError for a file of another form.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    entries = content.get("arms", content) if isinstance(content, dict) else None
    if not entries or not all(
        isinstance(entry, dict) and ("value" in entry or "accuracy" in entry) for entry in entries.values()
    ):
        raise ValueError(f"{path} holds no scores: expected a name → {{value, ci95, n, …}}, or `arms` of such")
    return [_score(name, entry) for name, entry in entries.items()]


def _score(name: str, entry: Mapping[str, Any]) -> Score:
    counted, of = entry.get("attended_visual_kv"), entry.get("visual_tokens")
    if attended := entry.get("attended"):
        counted, of = attended["visual"] + attended["context"], attended["of"]
    interval = entry.get("ci95")
    return Score(
        entry.get("title", name),
        entry.get("value", entry.get("accuracy")),
        None if interval is None else (interval[0], interval[1]),
        entry.get("n"),
        counted,
        of,
        entry.get("status", "complete"),
    )


def model_card(folder: Path | str, repo_id: str, scores: Sequence[Score] = (), license: str | None = None) -> str:
    """Markdown with the hub's metadata on top.

    Args:
        folder: a saved model; what lies beside it of `run_config.json`, `train_log.jsonl`, `lineage.json` and
            `gaze.png` is told too. Of a dense export, its lineage is told.

    Raises: ValueError where the folder holds neither a Cambrian-Gaze model nor a dense export of one.
    """
    folder = Path(folder)
    title = f"# {repo_id.rpartition('/')[2]}"
    if (layout := dense_layout(folder)) is not None:
        lineage = read_lineage(folder)
        sections = [_metadata(lineage, license), title, *dense_body(repo_id, layout, lineage), _scores(scores)]
        return "\n\n".join(sections) + "\n"
    config = CambrianGazeConfig.from_pretrained(folder)
    lineage = read_lineage(folder) if (folder / LINEAGE).is_file() else None
    sections = [
        _metadata(lineage, license),
        title,
        _what(folder, config),
        _gaze(config),
        _use(repo_id),
        _scores(scores),
        _training(folder, lineage),
    ]
    if (folder / PICTURE).is_file():
        sections.append(f"## Where it looks\n\n![Regions that generated tokens looked at]({PICTURE})")
    return "\n\n".join(sections) + "\n"


def _metadata(lineage: Mapping[str, Any] | None, license: str | None) -> str:
    values: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    values["tags"] = ["cambrian-gaze", "gaze-attention"]
    if license is not None:
        values["license"] = license
    if names := sorted(set(_hub_parents(lineage))):
        values["base_model"] = names
    return f"---\n{yaml.safe_dump(values, sort_keys=False).strip()}\n---"


def _hub_parents(lineage: Mapping[str, Any] | None) -> list[str]:
    """Names of hub models at the root of the descent."""
    found = []
    for one in [] if lineage is None else lineage["parents"]:
        if "lineage" in one:
            found += _hub_parents(one["lineage"])
        elif "weights" not in one and one["name"].count("/") == 1:
            found.append(one["name"])
    return found


def _what(folder: Path, config: CambrianGazeConfig) -> str:
    vision, text = config.vision_config, config.text_config
    count = 0
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(str(file), framework="pt") as opened:
            count += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())
    return (
        "A vision-language model with Gaze Attention ([paper](https://arxiv.org/abs/2605.13080)), made with "
        "Cambrian-Gaze: each text query picks the few regions of an image that it needs, per layer and head, and "
        f"attends to those alone.\n\n{count:,} parameters: tower {vision.model_type} ({vision.num_hidden_layers} "
        f"layers, {vision.image_size} px), projector {config.mm_projector_type}, decoder {text.model_type} "
        f"({text.num_hidden_layers} layers, width {text.hidden_size})."
    )


def _gaze(config: CambrianGazeConfig) -> str:
    gaze = config.gaze_config
    rows = [("visual tokens of an image", " × ".join(map(str, config.grid)))]
    rows.append(("image: region, budget", _budget(gaze.image)))
    if gaze.video is not None:
        rows.append(("video: region, budget", _budget(gaze.video)))
    rows.append(("context tokens per image or frame", str(gaze.num_context_tokens)))
    cost = attended_visual([(1, *config.grid)], gaze)
    rows.append(("KV entries per query, one image", f"{cost.total} of {cost.of} ({cost.share:.1%})"))
    rows.append(("choice", f"per {'query head' if gaze.head_granularity == 'q_head' else 'KV head'}"))
    return "## Gaze\n\n" + _table(("", ""), rows)


def _budget(budget: RegionBudget) -> str:
    size = "×".join(map(str, budget.region_size))
    for name in BUDGET_FIELDS:
        if (value := getattr(budget, name)) is not None:
            return f"{size}, {name} = {value}"
    return f"{size}, every region"


def _use(repo_id: str) -> str:
    return f"""## Use

`pip install cambrian-gaze`, then:

```python
import cambrian_gaze
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{repo_id}")
processor = AutoProcessor.from_pretrained("{repo_id}")
```

`import cambrian_gaze` makes the Auto classes know the model; no code is loaded from the hub. `generate` takes the
budget: `gaze={{"top_k": 2}}`."""


def _scores(scores: Sequence[Score]) -> str:
    if not scores:
        return "## Scores\n\nNone were measured for this card."
    rows = []
    for score in scores:
        value = "–" if score.value is None else f"{score.value:.3f}"
        interval = "–" if score.interval is None else f"{score.interval[0]:.3f} – {score.interval[1]:.3f}"
        kept = "–" if score.attended is None else f"{score.attended:.1f} of {score.of:.1f}"
        count = "–" if score.count is None else f"{score.count:,}"
        rows.append((score.name, value, interval, count, kept, score.status))
    head = ("", "score", "95 % CI", "n", "KV entries attended, counted", "status")
    return "## Scores\n\n" + _table(head, rows)


def _training(folder: Path, lineage: Mapping[str, Any] | None) -> str:
    rows: list[tuple[str, str]] = []
    if (folder / "run_config.json").is_file():
        values = json.loads((folder / "run_config.json").read_text(encoding="utf-8"))["values"]
        rows += [(key, f"`{values[key]}`") for key in _TOLD if key in values]
        for key in ("model_name_or_path", "vision_tower", "preset"):
            if key in values:
                rows.append((key, f"`{_without_place(values[key])}`"))
    if (folder / LOG_NAME).is_file() and (log := read_log(folder)):
        last = log[-1]
        rows.append(("optimizer steps, last loss", f"{last['step']:,}, {last['loss']:.4f}"))
        if "attended_kv_share" in last:
            share = f"K = {last['k']:g}, {last['attended_kv_share']:.1%} of the visual entries"
            rows.append(("attended in the last logged step", share))
    if lineage is not None:
        rows.append(("made by", lineage["made_by"]))
        rows.append(("weights", f"`{lineage['weights']}`"))
        rows.append(("code", code_text(lineage["code"])))
        if lineage["data"] is not None:
            rows.append(("data recipe", f"`{lineage['data']['recipe']}`"))
            rows += [("records", f"`{Path(file).name}`") for file in lineage["data"]["files"]]
    if not rows:
        return "## Training\n\nNot recorded."
    return "## Training\n\n" + _table(("", ""), rows)


def _without_place(name: str) -> str:
    """A hub name as it is, of a folder its last part."""
    return name if name.count("/") == 1 and not Path(name).exists() else Path(name).name


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
