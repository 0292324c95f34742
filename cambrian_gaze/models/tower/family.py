"""`TowerFamily`: what the package must know of the towers of one `model_type`."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of the channels of a picture, of values from 0 to 1."""


def hidden_states(tower: nn.Module, pixel_values: Tensor, layer: int | None) -> Tensor:
    """[N, 3, H, W] → [N, tokens, width]: `last_hidden_state`, or the output of a layer (-1: the last one's)."""
    if layer is None:
        return tower(pixel_values).last_hidden_state
    return tower(pixel_values, output_hidden_states=True).hidden_states[layer]


@dataclass(frozen=True)
class TowerFamily:
    """The towers of one `model_type`."""

    model_type: str
    """Of the tower's configuration in transformers."""

    title: str
    """What a user calls it; errors list it."""

    image_mean: tuple[float, float, float]
    """What is taken off the channels, of values from 0 to 1. A `preprocessor_config.json` beside the tower comes
    first."""

    image_std: tuple[float, float, float]
    """What they are divided by then."""

    image_processor: str = "transformers.models.siglip.image_processing_pil_siglip:SiglipImageProcessorPil"
    """Module and class of the image processor that is saved with a model; it must take `size`, `image_mean` and
    `image_std`."""

    image_options: Mapping[str, Any] = field(default_factory=dict)
    """Its other arguments."""

    leading_tokens: int | Callable[[PreTrainedConfig], int] = 0
    """Tokens before those of the patches (class token, registers). They are dropped."""

    feature_layer: int | None = None
    """`CambrianGazeConfig.vision_feature_layer` of new models."""

    read: Callable[[nn.Module, Tensor, int | None], Tensor] = hidden_states
    """(tower, pixels [N, 3, H, W], `vision_feature_layer`) → [N, tokens, hidden_size], leading tokens included."""

    build: Callable[[PreTrainedConfig], nn.Module] = AutoModel.from_config
    """The tower of a configuration, with fresh weights."""

    config_values: Mapping[str, Any] = field(default_factory=dict)
    """Fields that every tower of a model has in its configuration."""

    prefixes: tuple[str, ...] = ()
    """Beginnings that a checkpoint puts before the names of the tower's tensors; there may be none."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """Beginnings of names, without those prefixes, that are left out, and why."""

    layers: str = "encoder.layers"
    """Where the list of layers is."""

    behind_layers: tuple[str, ...] = ()
    """Modules between the last layer and `last_hidden_state`."""

    never_used: tuple[str, ...] = ()
    """Modules and parameters that no features depend on."""

    refuses: Callable[[PreTrainedConfig], str] = lambda config: ""
    """Why a checkpoint of this configuration cannot be read; "" where it can."""

    def grid(self, config: PreTrainedConfig) -> tuple[int, int]:
        """Rows and columns of patches that the tower makes of a picture."""
        side = config.image_size // config.patch_size
        return side, side

    def features(self, tower: nn.Module, pixel_values: Tensor, layer: int | None) -> Tensor:
        """[N, 3, H, W] → [N, h·w, width], one per patch, row by row.

        Raises: ValueError where the tower gives another number of tokens than it is declared to.
        """
        config, leading = tower.config, self.leading_tokens
        leading = leading(config) if callable(leading) else leading
        tokens = self.read(tower, pixel_values, layer)
        patches = math.prod(self.grid(config))
        if tokens.shape[1] != leading + patches:
            raise ValueError(
                f"the tower ({self.title}) gives {tokens.shape[1]} tokens, but is declared to give {leading} and one "
                f"for each of {patches} patches: leading_tokens of its TowerFamily is wrong"
            )
        return tokens[:, leading:] if leading else tokens

    def weight_name(self, name: str, in_memory: Callable[[str], str]) -> tuple[str | None, str]:
        """What a tensor of a checkpoint is called in the tower; or None, and why it is left out.

        Args:
            in_memory: see the method of that name.
        """
        for prefix in self.prefixes:
            name = name.removeprefix(prefix)
        for beginning, reason in self.left_out.items():
            if name.startswith(beginning):
                return None, reason
        return in_memory(name), ""

    def in_memory(self, config: PreTrainedConfig) -> Callable[[str], str]:
        """From the name that a checkpoint has for a tensor of the tower to the one that transformers has for it."""
        from cambrian_gaze.models.hf_internals import names_in_memory  # attention, which a configuration does without

        with torch.device("meta"):
            return names_in_memory(self.build(config))

    def unused(self, tower: nn.Module, layer: int | None) -> list[nn.Module | nn.Parameter]:
        """What the features of `layer` (`vision_feature_layer`) do not depend on: it never gets a gradient."""
        names = self.never_used if layer is None else (*self.never_used, *self.behind_layers)
        parts = [attrgetter(name)(tower) for name in names]
        if layer is not None:
            layers = attrgetter(self.layers)(tower)
            parts += layers[len(layers) + 1 + layer :]
        return [part for part in parts if part is not None]

    def make_image_processor(self, config: PreTrainedConfig, statistics: Statistics | None = None) -> Any:
        """The image processor of a new model; `statistics` in the place of the family's own."""
        module, name = self.image_processor.split(":")
        mean, std = statistics or (self.image_mean, self.image_std)
        size = {"height": config.image_size, "width": config.image_size}
        kind = getattr(importlib.import_module(module), name)
        return kind(size=size, image_mean=list(mean), image_std=list(std), **self.image_options)


def mlp_width(config: PreTrainedConfig) -> int:
    """Hidden units of the MLP in a layer of a tower."""
    own = getattr(config, "intermediate_size", None)
    return int(config.hidden_size * config.mlp_ratio) if own is None else own


def statistics_of(folder: Path | str) -> Statistics | None:
    """Mean and standard deviation that a tower's folder says its pictures were normalised with; None: it does not say.

    Raises: ValueError where they are not three numbers each, or a deviation is zero.
    """
    file = Path(folder) / "preprocessor_config.json"
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    given = [content.get(name) for name in ("image_mean", "image_std")]
    if None in given:
        return None
    for values in given:
        numbers = isinstance(values, list) and len(values) == 3
        if not numbers or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
            raise ValueError(f"{file}: image_mean and image_std must be three numbers each, not {str(values)[:80]}")
    if not all(given[1]):
        raise ValueError(f"{file}: image_std holds a zero")
    return tuple(given[0]), tuple(given[1])
