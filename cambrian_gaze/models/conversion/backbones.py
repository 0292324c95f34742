"""What a model is built from: the folders, configurations, tokenizer and weights of a language model and a tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

from cambrian_gaze.data.conversation import CONTEXT_TOKEN, IMAGE_TOKEN, VIDEO_TOKEN
from cambrian_gaze.data.expand import PlaceholderIds
from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.conversion.key_report import TensorPart, TensorSource, match
from cambrian_gaze.models.conversion.shards import Shards
from cambrian_gaze.models.conversion.weight_names import DECODER, HEAD, TOWER, decoder_names, tower_names
from cambrian_gaze.models.folders.folder_check import Copied, check_files
from cambrian_gaze.models.folders.opening import open_config
from cambrian_gaze.models.folders.source import known_source
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.presets import preset as preset_values
from cambrian_gaze.models.tower import family_of

SIZES = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "tie_word_embeddings",
    "image_size",
    "patch_size",
)
"""What a backbone must share with a preset that was asked for."""


def resolve(name: str, copied: Copied = "nothing") -> Path:
    """The folder of a checkpoint: a local one, or that of a Hub id, downloaded or (under HF_HUB_OFFLINE) in the cache.

    Args:
        copied: see `folder_check.check_files`.

    Raises: ValueError where there is neither, or it holds a file that is broken.
    """
    folder = Path(known_source(name))
    if not folder.is_dir():
        folder = _from_hub(name)
    check_files(folder, copied)
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json", "*.txt", "*.jinja"]
    try:
        files = snapshot_download(name, allow_patterns=wanted, ignore_patterns=["*/*"])
    except Exception as error:
        raise ValueError(f"{name} is no local folder and cannot be had from the Hub: {error}") from error
    return Path(files)


def read_text_config(path: Path | str) -> PreTrainedConfig:
    """Configuration of a causal language model. Raises: ValueError for anything else."""
    config = open_config(path)
    refuse_other_kinds(config, path)
    return config


def refuse_other_kinds(config: PreTrainedConfig, path: Path | str) -> None:
    """Raises: ValueError for the configuration of anything but a causal language model."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{path} is a {config.model_type!r} model, not a language model such as Qwen3 or Qwen2.5")


def read_vision_config(path: Path | str) -> PreTrainedConfig:
    """Configuration of a vision tower, alone or in a model with a text tower.

    Raises: ValueError for anything but a known tower, and for one whose checkpoint cannot be read.
    """
    config = open_config(path)
    tower = getattr(config, "vision_config", config)
    if not isinstance(tower, PreTrainedConfig):  # a leftover key of a model of another kind
        tower = config
    try:
        family = family_of(tower)
    except ValueError:
        family_of(config, path)  # says what the folder holds
        raise
    if reason := family.refuses(tower):
        raise ValueError(f"{path} cannot be read: {reason}")
    return tower


def assemble_config(
    preset: str | None,
    overrides: Mapping[str, Any],
    text_config: PreTrainedConfig | None = None,
    vision_config: PreTrainedConfig | None = None,
    tokenizer: Any = None,
) -> CambrianGazeConfig:
    """Configuration of a fresh model: the preset's (or the defaults), with those of the parts that are given."""
    values = dict(overrides)
    if text_config is not None:
        values["text_config"] = text_config
    if vision_config is not None:
        values.setdefault("vision_config", vision_config)
        values.setdefault("vision_feature_layer", family_of(vision_config).feature_layer)
    if tokenizer is not None:
        values.update({f"{k}_token_id": v for k, v in PlaceholderIds.from_tokenizer(tokenizer)._asdict().items()})
    if preset is not None:
        return CambrianGazeConfig.from_preset(preset, **values)
    return CambrianGazeConfig(**values)


def language_model_part(path: Path | str, tied: bool) -> TensorPart:
    """A language model's checkpoint as a part of the model."""
    shards = Shards(path)
    return TensorPart("language model", shards, decoder_names(shards, tied), (DECODER,) if tied else (DECODER, HEAD))


def vision_tower_part(path: Path | str) -> TensorPart:
    """A vision tower's checkpoint as a part of the model."""
    shards, config = Shards(path), read_vision_config(path)
    family = family_of(config)
    return TensorPart("vision tower", shards, tower_names(shards, family, family.in_memory(config)), (TOWER,))


@torch.no_grad()
def load_part(model: CambrianGazeForConditionalGeneration, part: TensorPart) -> None:
    """Copy a checkpoint into a model in memory, one tensor at a time.

    Raises: ValueError where names or shapes differ.
    """
    own = model.state_dict()
    for target, source in _sources(model, part).items():
        own[target].copy_(part.shards.tensor(source.name))


def check_parts(config: CambrianGazeConfig, parts: Sequence[TensorPart]) -> None:
    """Raises: ValueError where names or shapes of checkpoints are not those of a model of `config`, which takes no
    memory yet."""
    with torch.device("meta"):
        model = CambrianGazeForConditionalGeneration(config)
    for part in parts:
        _sources(model, part)


def _sources(model: CambrianGazeForConditionalGeneration, part: TensorPart) -> dict[str, TensorSource]:
    """Where the tensors come from that a part must fill. Raises: ValueError where names or shapes differ."""
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(part.prefixes)}
    report = match({name: tuple(tensor.shape) for name, tensor in own.items()}, [part], {})
    report.check()
    return report.loaded


def check_sizes(preset: str, text_config: PreTrainedConfig, vision_config: PreTrainedConfig) -> None:
    """Raises: ValueError naming the sizes of the backbones that are not the preset's."""
    given = CambrianGazeConfig(text_config=text_config, vision_config=vision_config)
    if differences := other_sizes(given, CambrianGazeConfig(**preset_values(preset))):
        raise ValueError(f"the backbones are not those of the preset {preset!r}: {'; '.join(differences)}; drop it")


def other_sizes(given: CambrianGazeConfig, wanted: CambrianGazeConfig) -> list[str]:
    """Each size in which the language model or the tower of `given` is not that of `wanted`, in words."""
    return [
        f"{title} {name} is {getattr(here, name, None)!r}, not {getattr(there, name)!r}"
        for title, here, there in (
            ("the language model's", given.text_config, wanted.text_config),
            ("the tower's", given.vision_config, wanted.vision_config),
        )
        for name in SIZES
        if hasattr(there, name) and getattr(here, name, None) != getattr(there, name)
    ]


def add_placeholders(tokenizer: Any) -> list[str]:
    """Add the image, video and context tokens that a tokenizer lacks; says which."""
    known = tokenizer.get_vocab()
    lacking = [token for token in (IMAGE_TOKEN, VIDEO_TOKEN, CONTEXT_TOKEN) if token not in known]
    if not lacking:
        return []
    tokenizer.add_tokens(lacking, special_tokens=True)
    return [f"the tokenizer got {', '.join(lacking)}"]


def grow_vocabulary(text_config: PreTrainedConfig, tokens: int) -> str | None:
    """Raise `vocab_size` to a multiple of 64 where the embeddings have fewer rows than the tokenizer has tokens."""
    rows = text_config.vocab_size
    if tokens <= rows:
        return None
    text_config.vocab_size = -(-tokens // 64) * 64
    return (
        f"the token embeddings grow from {rows} to {text_config.vocab_size} rows, since the tokenizer has {tokens} "
        "tokens; the old rows stay as they are"
    )
