"""What the tensors of published language models and vision towers are called in a Cambrian-Gaze model.

`cambrian-gaze init`, training around a language model and conversion all read through it. What a tower's tensors are
called is declared with its family (`models.tower`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from cambrian_gaze.models.tower import TowerFamily

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


def tower_names(names: Iterable[str], family: TowerFamily, own: Collection[str]) -> dict[str, Name]:
    """Names of a checkpoint that holds a tower, alone or in a model with a text tower or a head.

    Args:
        own: names of the tower's tensors in memory (`family.tensors`).
    """
    found = {name: family.weight_name(name, own) for name in names}
    return {name: Name(None, why) if inner is None else Name(TOWER + inner) for name, (inner, why) in found.items()}


def saved_names(names: Iterable[str], family: TowerFamily, own: Collection[str]) -> dict[str, Name]:
    """Names of a saved model of this project, whose tensors are `own`: another transformers may have called some of its
    tower's as published checkpoints do."""
    inside = {name.removeprefix(TOWER) for name in own if name.startswith(TOWER)}
    return {
        name: Name(TOWER + family.name_in_memory(name.removeprefix(TOWER), inside) if name.startswith(TOWER) else name)
        for name in names
    }
