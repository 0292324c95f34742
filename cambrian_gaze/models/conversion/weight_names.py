"""What the tensors of published language models and SigLIP towers are called in a Cambrian-Gaze model.

The one place that knows it: `cambrian-gaze init`, training around a language model and conversion all read through it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

DECODER = "model.language_model."
TOWER = "model.vision_tower."
HEAD = "lm_head.weight"


class Name(NamedTuple):
    """What becomes of a tensor: its name in the model, or None and the reason why it is left out."""

    target: str | None
    reason: str = ""


def decoder_names(names: Iterable[str], tied: bool) -> dict[str, Name]:
    """Names of a causal language model (`model.layers.…`, `lm_head.weight`), or of its base model without the prefix.

    `tied`: the head is the token embeddings, so that a copy of it in the file is left out.
    """
    names = list(names)
    prefixed = any(name.startswith("model.") for name in names)
    return {name: _decoder_name(name, prefixed, tied) for name in names}


def _decoder_name(name: str, prefixed: bool, tied: bool) -> Name:
    if name == HEAD:
        return Name(None, "tied to the token embeddings") if tied else Name(HEAD)
    if name.endswith("rotary_emb.inv_freq"):
        return Name(None, "a buffer that is computed")
    if prefixed and not name.startswith("model."):
        return Name(name)
    return Name(DECODER + name.removeprefix("model."))


def tower_names(names: Iterable[str]) -> dict[str, Name]:
    """Names of a `SiglipModel` or `SiglipVisionModel`, with or without its `vision_model.` prefix."""
    return {name: _tower_name(name) for name in names}


def _tower_name(name: str) -> Name:
    if name.startswith("text_model.") or name in ("logit_scale", "logit_bias"):
        return Name(None, "SigLIP's text tower and loss")
    inner = name.removeprefix("vision_model.")
    if inner.startswith("head."):
        return Name(None, "the pooling head, whose output is not used")
    if inner == "embeddings.position_ids":
        return Name(None, "a buffer that is computed")
    return Name(TOWER + inner)
