"""What the tensors of published language models and vision towers are called in a Cambrian-Gaze model.

`cambrian-gaze init`, training around a language model and conversion all read through it. What a tower's tensors are
called is declared with its family (`models.tower`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from transformers import PreTrainedConfig

from cambrian_gaze.models.tower import TowerFamily, family_of

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


def tower_names(names: Iterable[str], family: TowerFamily, in_memory: Callable[[str], str] = str) -> dict[str, Name]:
    """Names of a checkpoint that holds a tower, alone or in a model with a text tower or a head.

    Args:
        in_memory: `family.in_memory(config)`, where transformers may call tensors otherwise than the checkpoint does.
    """
    found = {name: family.weight_name(name, in_memory) for name in names}
    return {name: Name(None, why) if inner is None else Name(TOWER + inner) for name, (inner, why) in found.items()}


def saved_names(names: Iterable[str], vision_config: PreTrainedConfig, own: Collection[str]) -> dict[str, Name]:
    """Names of a saved model of this project, whose tensors are `own`: another transformers may have called some of its
    tower's otherwise."""
    found = {name: Name(name) for name in names}
    if strange := [name for name in found if name.startswith(TOWER) and name not in own]:
        in_memory = family_of(vision_config).in_memory(vision_config)
        found |= {name: Name(TOWER + in_memory(name.removeprefix(TOWER))) for name in strange}
    return found
