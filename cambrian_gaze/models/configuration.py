"""`CambrianGazeConfig`: vision tower, projector, decoder and gaze, in one configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.models.folders.opening import opening
from cambrian_gaze.models.presets import SIGLIP2_SO400M_16_384, preset
from cambrian_gaze.models.tower import TowerFamily, family_of
from cambrian_gaze.plugins import needed, remember

PROJECTORS = ("mlp2x_gelu", "conv3x3_mlp2x_gelu", "avgpool2_mlp2x_gelu", "maxpool2_mlp2x_gelu")
"""Known values of `mm_projector_type`; all but the first give a quarter of the tokens."""

_TEXT = {"model_type": "qwen3"}


class CambrianGazeConfig(PreTrainedConfig):
    """Configuration of a Cambrian-Gaze model.

    Args:
        vision_config: the tower, the configuration of a known family (see `models.tower`) or its dict; default
            SigLIP2-So400m/16 at 384 px.
        text_config: the decoder, any configuration whose model uses transformers' attention interface; default Qwen3.
        gaze: a `GazeConfig` or its dict.
        mm_projector_type: one of `PROJECTORS`.
        mm_conv_position: where a compressing projector shrinks the grid: "before_mlp" at vision width, or "after_mlp".
        vision_feature_layer: what of the tower becomes the features: None, its output after the last norm (the paper;
            CLIP has no such norm); -1, -2, …: the output of its last, last but one, … layer before that norm (LLaVA,
            Cambrian-S). Class tokens are dropped.
        context_tokens_std, embedding_std: standard deviation at initialisation of the context tokens and of the token
            embeddings; None: the decoder's `initializer_range`.
        image_token_id, video_token_id, context_token_id: placeholder ids (Qwen's image, video and vision pad).
        plugins: records of the plugins (`--plugin`) that its descriptor, backend and tower come from, for the errors
            of a process that has not loaded them. Written anew whenever the configuration is; nothing is run of them.
    """

    model_type = "cambrian_gaze"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    gaze: dict | None = None
    mm_projector_type: str = "mlp2x_gelu"
    mm_conv_position: str = "before_mlp"
    vision_feature_layer: int | None = None
    context_tokens_std: float | None = None
    embedding_std: float | None = None
    image_token_id: int = 151655
    video_token_id: int = 151656
    context_token_id: int = 151654
    tie_word_embeddings: bool = False
    plugins: list | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        remember(self.plugins)
        self.vision_config = _sub_config(self.vision_config, SIGLIP2_SO400M_16_384)
        for name, value in self.tower_family.config_values.items():
            setattr(self.vision_config, name, value)
        self.text_config = _sub_config(self.text_config, _TEXT)
        gaze = self.gaze if isinstance(self.gaze, GazeConfig) else GazeConfig.from_dict(self.gaze or {})
        self.gaze = gaze.check_layers(self.text_config.num_hidden_layers).to_dict()
        if self.mm_projector_type not in PROJECTORS:
            raise ValueError(
                f"mm_projector_type must be one of {', '.join(PROJECTORS)}, got {self.mm_projector_type!r}"
            )
        if self.mm_conv_position not in ("before_mlp", "after_mlp"):
            raise ValueError(f"mm_conv_position must be before_mlp or after_mlp, got {self.mm_conv_position!r}")
        layer, layers = self.vision_feature_layer, self.vision_config.num_hidden_layers
        if layer is not None and not -layers <= layer <= -1:
            raise ValueError(f"vision_feature_layer must be None or between -{layers} and -1, got {layer}")
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As transformers', with the records of the plugins that it needs, where it needs any."""
        values = super().to_dict()
        used = (
            *(("descriptor", values["gaze"]["descriptor"]), ("attention backend", values["gaze"]["backend"])),
            ("vision tower", values["vision_config"]["model_type"]),
        )
        records = needed(used, values.pop("plugins", None))
        return values | ({"plugins": records} if records else {})

    @property
    def gaze_config(self) -> GazeConfig:
        """`gaze` as the frozen dataclass. Raises ValueError where it does not fit the decoder."""
        return GazeConfig.from_dict(self.gaze).check_layers(self.text_config.num_hidden_layers)

    def gaze_under(self, options: Mapping[str, Any] | GazeConfig | None) -> GazeConfig:
        """`gaze_config` under run-time options such as {"top_k": 2}, or a whole configuration in its place.

        Raises: ValueError for unknown options, and where a `GazeConfig` has another number of context tokens.
        """
        own = self.gaze_config
        if isinstance(options, GazeConfig):
            if options.num_context_tokens != own.num_context_tokens:
                raise ValueError(
                    f"this model has {own.num_context_tokens} context tokens, the gaze configuration given has "
                    f"{options.num_context_tokens}; context_visible=False hides them"
                )
            return options.check_layers(self.text_config.num_hidden_layers)
        if options is not None and not isinstance(options, Mapping):
            raise ValueError(f"gaze must be options such as {{'top_k': 2}}, or a GazeConfig, got {options!r}")
        return own.override(**options).check_layers(self.text_config.num_hidden_layers) if options else own

    @property
    def tower_family(self) -> TowerFamily:
        """What is declared of the vision tower. Raises: ValueError for one that is not known, with those that are."""
        return family_of(self.vision_config)

    @property
    def tower_grid(self) -> tuple[int, int]:
        """Rows and columns of patches that the tower makes of an image."""
        return self.tower_family.grid(self.vision_config)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of visual tokens after the projector."""
        if self.mm_projector_type == "mlp2x_gelu":
            return self.tower_grid
        return tuple(-(-side // 2) for side in self.tower_grid)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any):
        """As transformers', but a path that leads nowhere is said at once, and what lies near it.

        Raises: FolderError, a ValueError, for files that are broken or foreign.
        """
        source = pretrained_model_name_or_path
        if source is None:
            return super().from_pretrained(None, *args, **kwargs)
        with opening(source) as folder:
            return super().from_pretrained(folder, *args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """As transformers', with `gaze` as run-time options over the checkpoint's, such as {"top_k": 2}.

        Raises: ValueError for the configuration of another architecture, which would be read as all defaults, and for
        options of the gaze that are unknown or cannot change.
        """
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ValueError(
                f"this checkpoint is a {kind!r} model, not {cls.model_type!r}; load it with transformers' Auto classes"
            )
        options = kwargs.pop("gaze", None)
        made = super().from_dict(config_dict, **kwargs)
        config = made[0] if isinstance(made, tuple) else made
        if options is not None:
            config.gaze = config.gaze_under(options).to_dict()
        return made

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> CambrianGazeConfig:
        """The configuration of a preset: "tiny", "4b", "7b", "4b-512" or "7b-512". `overrides` replace whole fields."""
        return cls(**(preset(name) | overrides))


def _sub_config(value: dict | PreTrainedConfig | None, default: dict) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    values = dict(default if value is None else value)
    kind = values.pop("model_type", default["model_type"])
    if default is SIGLIP2_SO400M_16_384:
        family_of(kind)
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"transformers knows no model type {kind!r}")
    return CONFIG_MAPPING[kind](**values)
