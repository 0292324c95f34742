"""Saved models: ready to answer, or under another configuration than they were saved with."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch

from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.generation_settings import settle
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.processing.processor import CambrianGazeProcessor
from cambrian_gaze.models.visual.tokens import GazeEmbeddings

logger = logging.getLogger(__name__)


def load_to_answer(
    name: str, system: str | None = None
) -> tuple[CambrianGazeForConditionalGeneration, CambrianGazeProcessor]:
    """Model (in eval mode, in the precision it was saved in) and processor of a folder or from the Hub. Answers end
    with their turn, whatever generation settings were saved.

    Args:
        system: what the system turn says; None: as the checkpoint has it, "": no system turn.

    Raises: OSError where there is no such model.
    """
    processor = CambrianGazeProcessor.from_pretrained(name)
    model = CambrianGazeForConditionalGeneration.from_pretrained(name, dtype="auto")
    return make_ready(model, processor, system)


def make_ready(
    model: CambrianGazeForConditionalGeneration, processor: CambrianGazeProcessor, system: str | None = None
) -> tuple[CambrianGazeForConditionalGeneration, CambrianGazeProcessor]:
    """As `load_to_answer`, for what is in memory. Raises: ValueError for a chat template that cannot be used."""
    settle(model, processor.tokenizer)
    processor.check_template()
    if system is not None:
        processor.system_prompt = system
    return model.eval(), processor


def load_model(
    name: str, config: CambrianGazeConfig, dtype: torch.dtype, **options: Any
) -> CambrianGazeForConditionalGeneration:
    """A saved model under `config`, which may ask for another number of context tokens than it was saved with.
    `options` go to `from_pretrained`.

    Raises: ValueError where both numbers are positive: learned tokens are neither cut nor invented.
    """
    wanted, stored = config.gaze_config.num_context_tokens, CambrianGazeConfig.from_pretrained(name).gaze_config
    if wanted == stored.num_context_tokens:
        return CambrianGazeForConditionalGeneration.from_pretrained(name, config=config, dtype=dtype, **options)
    if wanted and stored.num_context_tokens:
        raise ValueError(
            f"{name} has {stored.num_context_tokens} context tokens, not {wanted}; leave num_context_tokens out, or "
            "start from a model without (num_context_tokens: 0)"
        )
    # Loaded as it was saved: otherwise transformers prints a report of the tokens as if something were wrong.
    as_saved = copy.deepcopy(config)
    as_saved.gaze["num_context_tokens"] = stored.num_context_tokens
    model = CambrianGazeForConditionalGeneration.from_pretrained(name, config=as_saved, dtype=dtype, **options)
    model.config.gaze = config.gaze
    model.model.gaze = GazeEmbeddings(wanted, config.text_config.hidden_size).to(dtype)
    if wanted:
        model._init_weights(model.model.gaze)
        logger.warning("%s has no context tokens: the %d of this run start fresh", name, wanted)
    else:
        logger.warning("%s has %d context tokens, which are left out (|C|=0)", name, stored.num_context_tokens)
    return model
