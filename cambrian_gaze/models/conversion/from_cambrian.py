"""Checkpoints of LLaVA, Cambrian and Cambrian-S to model folders of this project; tensors stay as stored.

What the model has no place for (`model.image_newline`, the next-frame head) is kept beside it, so that the way back
(`to_cambrian`) gives every tensor of the original.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedConfig

from cambrian_gaze.files import refuse_existing
from cambrian_gaze.models.conversion import cambrian
from cambrian_gaze.models.conversion.backbones import (
    add_placeholders,
    assemble_config,
    grow_vocabulary,
    read_vision_config,
    resolve,
    vision_tower_part,
)
from cambrian_gaze.models.conversion.cambrian import Choices
from cambrian_gaze.models.conversion.key_report import KeyReport, TensorPart, match, model_shapes
from cambrian_gaze.models.conversion.model_writer import EMBEDDINGS, NEW, WriteOptions, write_model
from cambrian_gaze.models.conversion.shard_writer import Planned, write_file
from cambrian_gaze.models.conversion.shards import Shards
from cambrian_gaze.models.conversion.weight_names import DECODER, HEAD, TOWER
from cambrian_gaze.models.folders.lineage import parent, write_lineage
from cambrian_gaze.models.folders.opening import open_tokenizer, opening, said_of
from cambrian_gaze.models.generation_settings import settings_from
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.processing.processor import CambrianGazeProcessor
from cambrian_gaze.models.tower.published import SIGLIP

DENSE = {"image": {"region_size": [1, 6, 6], "keep_ratio": 1.0}, "num_context_tokens": 0}
"""Gaze configuration of a converted model: every region, no context tokens. It computes what upstream computes."""


def from_cambrian(
    path: Path | str,
    out: Path | str,
    choices: Choices | None = None,
    vision: str | None = None,
    tokenizer: str | None = None,
    max_shard_size: int = 4_000_000_000,
    dry_run: bool = False,
    progress: bool = True,
) -> KeyReport:
    """Write a dense model folder with the weights of an upstream checkpoint.

    Args:
        path: folder with `config.json`, tokenizer and weights (safetensors or .bin).
        out: the folder; it must not exist, or be empty.
        choices: what to do about what this model has no place for.
        vision: SigLIP (folder or Hub id) where the checkpoint does not hold the tower, or does not name a known one.
        tokenizer: folder or Hub id; by default the checkpoint's.
        max_shard_size: bytes.
        dry_run: check, and write nothing.

    Raises: ValueError where the checkpoint cannot be converted, with the reason; nothing is written then.
    """
    if not dry_run:
        refuse_existing(out)
    with opening(path, copied="rewritten", verb="converted") as source:
        path = Path(source)
        upstream = read_config(path)
        shards = Shards(path)
        cambrian.refuse_sva(shards)
        text_config = decoder_config(upstream)
        vision_config, layer, used = tower_config(upstream, shards, vision)
        h, w = grid = SIGLIP.grid(vision_config)
        notes = cambrian.check_config(upstream, grid, cambrian.NEWLINE in shards.entries, choices or Choices())
        tokenizer_folder = path if tokenizer is None else resolve(tokenizer, copied="rewritten")
        text_tokenizer = open_tokenizer(tokenizer_folder, config=text_config)
        notes += add_placeholders(text_tokenizer)
        grown = grow_vocabulary(text_config, len(text_tokenizer))
        overrides = {"gaze": DENSE, "vision_feature_layer": layer}
        config = assemble_config(None, overrides, text_config, vision_config, text_tokenizer)
        names = cambrian.upstream_names(shards, config.tie_word_embeddings, used)
        parts = [TensorPart("upstream", shards, names, (DECODER, cambrian.PROJECTOR, TOWER, HEAD))]
        if not cambrian.stored_layers(shards):
            parts[0] = parts[0]._replace(prefixes=(DECODER, cambrian.PROJECTOR, HEAD))
            hub_id = vision or cambrian.TOWERS[cambrian.tower_name(upstream)].hub_id
            part = vision_tower_part(resolve(hub_id, copied="rewritten"))
            parts.append(part._replace(names=cambrian.truncated(part.names, used)))
        with torch.device("meta"):
            model = CambrianGazeForConditionalGeneration(config)
        report = match(model_shapes(model), parts, NEW, (EMBEDDINGS, HEAD) if grown else ())
        aspect, _ = cambrian.aspect_of(upstream, choices or Choices())
        processor = CambrianGazeProcessor.from_config(config, text_tokenizer, aspect)
        processor.system_prompt = cambrian.SYSTEM_PROMPT
        settings, sampling = settings_from(path, config, processor.tokenizer)
        notes.append(f"the system turn {cambrian.SYSTEM_PROMPT!r} is kept in the processor: --system changes it")
        report.notes += notes + ([grown] if grown else []) + sampling
        where = "after its last norm" if layer is None else f"after layer {used}, before the last norm"
        report.notes.append(f"features of the tower are taken {where}: {h}×{w} tokens")
    if dry_run:
        return report
    with said_of(f"{path} cannot be converted"):
        report.check()

    def add_record(folder: Path) -> None:
        left_out = [name for name, (target, _) in names.items() if target is None]
        kept = {target: source.name for target, source in report.loaded.items() if source.part is parts[0]}
        record = {"config": upstream, "names": kept}
        if (path / cambrian.GENERATION).is_file():
            record["generation_config"] = json.loads((path / cambrian.GENERATION).read_text(encoding="utf-8"))
        (folder / cambrian.RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if left_out:
            write_file(folder / cambrian.LEFT_OUT, [Planned.copied(name, shards, name) for name in left_out])
        write_lineage(folder, "convert from-cambrian", [parent("model", path)])

    options = WriteOptions(max_shard_size=max_shard_size, progress=progress)
    write_model(out, model, report, processor, settings, options, extra=add_record)
    return report


def read_adapter(path: Path | str, choices: Choices) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of an upstream `mm_projector.bin`, under this project's names, and what the choices change.

    Raises: ValueError where it holds anything but a two-layer projector and, by choice, a newline.
    """
    shards = Shards(path)
    cambrian.refuse_sva(shards)
    tensors, notes = {}, []
    for name in shards:
        target = name if name.startswith("model.") else f"model.{name}"
        if target == cambrian.NEWLINE and choices.image_newline == "drop":
            notes.append("model.image_newline is dropped")
        elif target == cambrian.NEWLINE:
            raise ValueError(f"{path} holds {name}, which this model does not use; --image_newline drop leaves it out")
        else:
            tensors[target] = shards.tensor(name)
    wanted = {f"{cambrian.PROJECTOR}{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    if set(tensors) != wanted:
        differences = ", ".join(sorted(set(tensors) ^ wanted))
        raise ValueError(f"{path} is no projector of type mlp2x_gelu; missing or unexpected: {differences}")
    return tensors, notes


def read_config(path: Path) -> dict[str, Any]:
    """The `config.json` of an upstream checkpoint."""
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ValueError(f"{file} is no model configuration: it has no model_type")
    return config


def decoder_config(upstream: dict[str, Any]) -> PreTrainedConfig:
    """Configuration of the decoder of an upstream configuration, which keeps both in one."""
    kind = upstream["model_type"]
    if kind not in cambrian.DECODERS:
        raise ValueError(
            f"model_type is {kind!r}; known: {', '.join(cambrian.DECODERS)}. Other decoders do not speak ChatML, the "
            "only conversation format here"
        )
    owner = CONFIG_MAPPING[cambrian.DECODERS[kind]]
    known = {field.name for field in dataclasses.fields(owner)} | {"rope_theta", "rope_scaling", "torch_dtype"}
    values = {key: value for key, value in upstream.items() if key in known}
    return owner(**{k: v for k, v in values.items() if k not in ("architectures", "transformers_version")})


def tower_config(
    upstream: dict[str, Any], shards: Shards, vision: str | None
) -> tuple[PreTrainedConfig, int | None, int]:
    """Configuration of the tower without layers that are not used, `vision_feature_layer`, and the layers left."""
    name = cambrian.tower_name(upstream)
    known = cambrian.TOWERS.get(name)
    if vision is not None:
        config = read_vision_config(resolve(vision))
        if config.model_type != SIGLIP.model_type:
            raise ValueError(f"{vision} is a {config.model_type!r} model; upstream's tower must be {SIGLIP.title}")
    elif known is not None:
        config = CONFIG_MAPPING[SIGLIP.model_type](**{k: v for k, v in known.config.items() if k != "model_type"})
    else:
        raise ValueError(f"the tower {name!r} is not known ({', '.join(cambrian.TOWERS)}); give it by --vision")
    layer = known.feature_layer if known is not None else upstream.get("mm_vision_select_layer")
    if known is None and layer is None:
        raise ValueError(f"config.json does not say mm_vision_select_layer, and the tower {name!r} is not known")
    layers = config.num_hidden_layers
    used = layers if layer is None else layers + 1 + int(layer)
    stored = cambrian.stored_layers(shards)
    if stored not in (0, used, layers):
        raise ValueError(f"the checkpoint holds {stored} tower layers, expected {used} (those used) or {layers} (all)")
    config.num_hidden_layers = used
    return config, None if layer is None else -1, used
