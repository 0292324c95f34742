"""`CambrianGazePreTrainedModel`: what the two model classes share as `PreTrainedModel`s of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.folders.adapter_check import refuse_adapter
from cambrian_gaze.models.folders.opening import check_fit, opening
from cambrian_gaze.models.hf_internals import CACHE_NAMES, check_attention, for_the_tower
from cambrian_gaze.models.visual.projector import GridConvolution
from cambrian_gaze.models.visual.tokens import GazeEmbeddings

_OTHER_WEIGHTS = {"variant", "subfolder", "gguf_file", "state_dict", "key_mapping", "ignore_mismatched_sizes"}
"""Options of `from_pretrained` with which the folder's weights are not simply the model's."""


class CambrianGazePreTrainedModel(PreTrainedModel):
    """Configuration, initialisation of weights, attention of the tower, folders and presets."""

    config_class = CambrianGazeConfig
    config: CambrianGazeConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = list(CACHE_NAMES)
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = True
    _can_compile_fullgraph = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.text_config.initializer_range
        if isinstance(module, GazeEmbeddings):
            if module.context_tokens is not None:
                own = self.config.context_tokens_std
                init.normal_(module.context_tokens, mean=0.0, std=std if own is None else own)
        elif isinstance(module, GridConvolution):
            if not getattr(module.weight, "_is_hf_initialized", False):
                module.reset_parameters()
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, mean=0.0, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)

    def set_attn_implementation(self, attn_implementation: str | dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """The attention of the vision tower; the decoder's is gaze attention and stays.

        Args:
            attn_implementation: "sdpa", "eager", …, or {"vision_config": "sdpa"}.

        Raises: ValueError where a dict names another attention for the decoder.
        """
        if parts := for_the_tower(attn_implementation):
            self.base_model.vision_tower.set_attn_implementation(parts["vision_config"], *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any):
        """As transformers', but a path that leads nowhere is said at once, and what lies near it; and
        `attn_implementation` is that of the vision tower.

        Raises: ValueError where a dict of it names another attention for the decoder; FolderError, which is one, for
        files that are broken, foreign or do not hold all of the model.
        """
        check_attention(kwargs.get("attn_implementation"))
        check_attention(getattr(kwargs.get("config"), "_attn_implementation", None))  # of an Auto class
        source = pretrained_model_name_or_path
        if source is None:
            return super().from_pretrained(None, *args, **kwargs)
        with opening(source) as folder:
            refuse_adapter(folder)
            if cls._tied_weights_keys and not any(kwargs.get(key) not in (None, False, "") for key in _OTHER_WEIGHTS):
                config = kwargs.get("config") or folder
                if not isinstance(config, PreTrainedConfig):
                    config = cls.config_class.from_pretrained(config)
                check_fit(_ours(cls), config, folder)
            return super().from_pretrained(folder, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any):
        """As transformers', under the names that the weights have in memory, which resuming and converting read.
        transformers would give those of some towers the names of their published checkpoints."""
        if getattr(self, "hf_quantizer", None) is None:
            kwargs.setdefault("save_original_format", False)
        return super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any):
        """A model of a preset's sizes with fresh weights; nothing is downloaded. Under `torch.device("meta")` no
        memory is taken. `overrides` replace fields of the configuration."""
        return cls(CambrianGazeConfig.from_preset(name, **overrides))


def _ours(kind: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class of this package that `kind` is or adds to: what a subclass adds need not be in the weights."""
    package = __name__.split(".")[0]
    return next(base for base in kind.__mro__ if base.__module__.split(".")[0] == package)
