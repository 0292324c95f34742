"""Model folders of this project to checkpoints of Cambrian-S; what came from upstream goes back byte by byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cambrian_gaze.data.media.aspect import check_aspect
from cambrian_gaze.files import new_folder, refuse_existing, write_json
from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.conversion import cambrian
from cambrian_gaze.models.conversion.key_report import KeyReport, TensorPart, TensorSource, match, model_shapes
from cambrian_gaze.models.conversion.model_writer import EMBEDDINGS, check_space
from cambrian_gaze.models.conversion.shard_writer import Planned, write_shards
from cambrian_gaze.models.conversion.shards import Shards
from cambrian_gaze.models.conversion.weight_names import Name
from cambrian_gaze.models.folders.folder_check import read_object
from cambrian_gaze.models.folders.lineage import parent, write_lineage
from cambrian_gaze.models.folders.opening import open_tokenizer, opening
from cambrian_gaze.models.generation_settings import settings_from
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.tower.published import SIGLIP

_TOWER_SIZES = ("hidden_size", "image_size", "patch_size")


def to_cambrian(
    path: Path | str,
    out: Path | str,
    drop_context_tokens: bool = False,
    model_type: str | None = None,
    tower: str | None = None,
    max_shard_size: int = 4_000_000_000,
    dry_run: bool = False,
    progress: bool = True,
) -> KeyReport:
    """Write an upstream checkpoint with the weights of a model folder of this project.

    Args:
        path: the model folder.
        out: the folder; it must not exist, or be empty.
        drop_context_tokens: leave them out; upstream has no place for them.
        model_type, tower: upstream's names of architecture and vision tower, where the folder was not converted from
            there and they cannot be told from it.
        max_shard_size: bytes.
        dry_run: check, and write nothing.

    Raises: ValueError where upstream cannot express the model.
    """
    if not dry_run:
        refuse_existing(out)
    with opening(path, copied="rewritten", verb="converted") as source:
        path = Path(source)
        config = CambrianGazeConfig.from_pretrained(path)
        if config.mm_projector_type != "mlp2x_gelu":
            raise ValueError(f"Cambrian has no projector {config.mm_projector_type!r}, only mlp2x_gelu")
        if config.tower_family is not SIGLIP:
            raise ValueError(f"the vision tower is {config.tower_family.title}; only {SIGLIP.title} can be converted")
        shards = Shards(path)
        part = TensorPart("model", shards, {name: Name(name) for name in shards}, ("",))
        with torch.device("meta"):
            match(model_shapes(CambrianGazeForConditionalGeneration(config)), [part], {}).check()
        record = path / cambrian.RECORD
        record = read_object(record) if record.is_file() else None
        aspect = saved_aspect(path)
        report = KeyReport()
        for name in shards:
            if name.startswith("model.gaze."):
                if not drop_context_tokens:
                    raise ValueError(
                        f"{name} has no place in a Cambrian checkpoint; --drop_context_tokens leaves the context "
                        "tokens out, and the model will miss them"
                    )
                report.ignored[name] = "context tokens, dropped as asked"
            elif record is not None and name not in record["names"]:
                owner = cambrian.tower_name(record["config"])
                report.ignored[name] = f"the frozen tower; upstream takes it from {owner}"
            else:
                report.loaded[record["names"][name] if record else cambrian.upstream_name(name)] = TensorSource(
                    part, name
                )
        planned = [Planned.copied(target, shards, source.name) for target, source in report.loaded.items()]
        if record is None:
            upstream = upstream_config(config, model_type, tower, aspect)
            dtype = shards.entries[EMBEDDINGS].dtype
            width = (config.text_config.hidden_size,)
            planned.append(Planned(cambrian.NEWLINE, width, dtype, lambda: torch.zeros(width)))
            report.new[cambrian.NEWLINE] = "zeros; mm_use_im_newline_token is false"
            if config.vision_feature_layer is None:
                report.notes.append(
                    "this model reads the tower after its last norm, Cambrian-S before it: its code must be told"
                )
        else:
            upstream = record["config"] | {"vocab_size": shards.entries[EMBEDDINGS].shape[0]}
            if cambrian.aspect_of(upstream, cambrian.Choices(anyres="base"))[0] != aspect:  # trained with another
                upstream["image_aspect_ratio"] = aspect
            if (path / cambrian.LEFT_OUT).is_file():
                aside = Shards(path / cambrian.LEFT_OUT)
                planned += [Planned.copied(name, aside, name) for name in aside]
                report.loaded |= {
                    name: TensorSource(TensorPart("kept beside the model", aside, {}, ()), name) for name in aside
                }
    if dry_run:
        return report
    shards.check_hashes(progress)
    check_space(out, sum(tensor.size for tensor in planned))
    tokenizer = open_tokenizer(path)
    with new_folder(out) as folder:
        write_shards(folder, planned, max_shard_size, progress)
        (folder / "config.json").write_text(json.dumps(upstream, indent=2) + "\n", encoding="utf-8")
        if record is not None and "generation_config" in record:
            write_json(folder / cambrian.GENERATION, record["generation_config"])
        else:
            settings_from(path, config, tokenizer, keep_sampling=True)[0].save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_lineage(folder, "convert to-cambrian", [parent("model", path)])
    return report


def saved_aspect(path: Path) -> str:
    """`image_aspect_ratio` of a model folder's processor."""
    file = path / "processor_config.json"
    saved = read_object(file) if file.is_file() else {}
    return check_aspect(saved.get("image_aspect_ratio", "pad"))


def upstream_config(
    config: CambrianGazeConfig, model_type: str | None, tower: str | None, aspect: str = "pad"
) -> dict[str, Any]:
    """An upstream configuration of a model that does not come from there."""
    decoder = config.text_config.model_type
    names = [name for name, kind in cambrian.DECODERS.items() if kind == decoder]
    if model_type is None and not names:
        raise ValueError(f"upstream names no architecture with a {decoder} decoder; give its name by --model_type")
    size = config.vision_config
    towers = [
        name
        for name, known in cambrian.TOWERS.items()
        if known.feature_layer is not None and all(getattr(size, key) == known.config[key] for key in _TOWER_SIZES)
    ]
    if tower is None and len(towers) != 1:
        raise ValueError(
            f"which vision tower this is cannot be told from its sizes ({', '.join(towers) or 'none is known'}); give "
            "the name that upstream knows by --tower"
        )
    h, w = config.grid
    values = {k: v for k, v in config.text_config.to_dict().items() if k not in ("_name_or_path", "architectures")}
    return values | {
        "model_type": model_type or names[0],
        "mm_projector_type": config.mm_projector_type,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_vision_tower_aux_list": [tower or towers[0]],
        "mm_vision_tower_aux_token_len_list": [h * w],
        "mm_vision_select_layer": -2 if config.vision_feature_layer == -1 else -1,
        "unfreeze_mm_vision_tower": True,
        "mm_use_im_newline_token": False,
        "image_aspect_ratio": aspect,
        "si_token_len": h * w,
        "miv_token_len": h * w,
    }
