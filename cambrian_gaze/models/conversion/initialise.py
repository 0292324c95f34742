"""A Cambrian-Gaze model from published backbones: language model and vision tower copied, projector and context tokens
fresh. Tensors go from file to file one at a time, so that memory holds the largest of them and not the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cambrian_gaze.data.media.aspect import check_aspect
from cambrian_gaze.files import refuse_existing
from cambrian_gaze.models.conversion.backbones import (
    add_placeholders,
    assemble_config,
    check_sizes,
    grow_vocabulary,
    language_model_part,
    read_text_config,
    read_vision_config,
    resolve,
    vision_tower_part,
)
from cambrian_gaze.models.conversion.key_report import KeyReport, match, model_shapes
from cambrian_gaze.models.conversion.model_writer import EMBEDDINGS, NEW, WriteOptions, write_model
from cambrian_gaze.models.conversion.weight_names import HEAD
from cambrian_gaze.models.folders.lineage import parent, write_lineage
from cambrian_gaze.models.folders.opening import open_tokenizer, said_of
from cambrian_gaze.models.generation_settings import settings_from
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.processing.processor import CambrianGazeProcessor
from cambrian_gaze.models.tower.family import statistics_of


def initialise(
    out: Path | str,
    language_model: str,
    vision: str,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    image_aspect_ratio: str = "square",
    keep_sampling: bool = False,
    **writing: Any,
) -> KeyReport:
    """Write a model folder made of a language model and a vision tower of a known family (see `models.tower`).

    Args:
        out: the folder; it must not exist, or be empty.
        language_model, vision, tokenizer: local folders or Hub ids; the tokenizer is the language model's by default.
        preset: checks the backbones against its sizes, and gives the gaze configuration.
        overrides: other fields of `CambrianGazeConfig`.
        image_aspect_ratio: "square" (the published models) or "pad".
        keep_sampling: keep the language model's sampling settings for `generate`; otherwise answers are greedy.
        writing: fields of `WriteOptions`, such as dry_run=True. Without a dtype all weights have the language model's.

    Raises: ValueError where a part is of another kind, torn, or does not fit; nothing is written then.
    """
    options = WriteOptions(**writing)
    overrides = dict(overrides or {})
    check_aspect(image_aspect_ratio)
    if taken := {"text_config", "vision_config"} & set(overrides):
        raise ValueError(f"{', '.join(sorted(taken))} come from the backbones; leave them out")
    if not options.dry_run:
        refuse_existing(out)
    llm_folder, tower_folder = resolve(language_model, copied="rewritten"), resolve(vision, copied="rewritten")
    tokenizer_folder = llm_folder if tokenizer is None else resolve(tokenizer, copied="rewritten")
    with said_of(f"{language_model} and {vision} make no model"):
        text_config, vision_config = read_text_config(llm_folder), read_vision_config(tower_folder)
        if preset is not None:
            check_sizes(preset, text_config, vision_config)
        text_tokenizer = open_tokenizer(tokenizer_folder)
        notes = add_placeholders(text_tokenizer)
        grown = grow_vocabulary(text_config, len(text_tokenizer))
        config = assemble_config(preset, overrides, text_config, vision_config, text_tokenizer)
        parts = [language_model_part(llm_folder, config.tie_word_embeddings), vision_tower_part(tower_folder)]
        with torch.device("meta"):
            model = CambrianGazeForConditionalGeneration(config)
        report = match(model_shapes(model), parts, NEW, (EMBEDDINGS, HEAD) if grown else ())
        processor = CambrianGazeProcessor.from_config(
            config, text_tokenizer, image_aspect_ratio, statistics_of(tower_folder)
        )
        settings, left_out = settings_from(llm_folder, config, processor.tokenizer, keep_sampling)
        report.notes += notes + ([grown] if grown else []) + left_out
    if options.dry_run:
        return report
    with said_of(f"{language_model} and {vision} make no model"):
        report.check()
    dtype = options.dtype or text_config.dtype or parts[0].shards.entries[report.loaded[EMBEDDINGS].name].dtype
    parents = [parent("language model", language_model), parent("vision tower", vision)]
    write_model(
        *(out, model, report, processor, settings, dataclasses.replace(options, dtype=dtype)),
        extra=lambda folder: write_lineage(folder, "init", parents),
    )
    return report
