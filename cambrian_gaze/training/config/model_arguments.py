"""Settings of a run: its model, and which of its parts train. `arguments.py` has the other fields.

Names are those of LLaVA and Cambrian wherever these have one.
"""

from dataclasses import dataclass
from typing import Literal

from cambrian_gaze.data.media.aspect import check_aspect

ProjectorType = Literal["mlp2x_gelu", "conv3x3_mlp2x_gelu", "avgpool2_mlp2x_gelu", "maxpool2_mlp2x_gelu"]


@dataclass
class ModelArguments:
    """Which model is trained, and which of its parts."""

    model_name_or_path: str | None = None
    """A saved Cambrian-Gaze model, or the language model (Qwen3, Qwen2.5) to start one from."""

    preset: str | None = None
    """`tiny`, `4b` or `7b`: sizes of a fresh model. A `model_name_or_path` brings its own; the rest is the preset's."""

    model_overrides: str | None = None
    """JSON object of options for the preset, such as '{"text_config": {"hidden_size": 96}}'."""

    tokenizer_name_or_path: str | None = None
    """Folder or Hub name of the processor or tokenizer; by default the model's own."""

    vision_tower: str | None = None
    """Weights of a vision tower (SigLIP, CLIP, DINOv2), alone or with its text tower, to load into the model's."""

    mm_projector_type: ProjectorType | None = None
    """Projector of a fresh model. The `conv3x3`, `avgpool2` and `maxpool2` kinds give 4 times fewer visual tokens."""

    mm_vision_select_layer: int | None = None
    """Only checked: which layer of the tower the model reads (its `vision_feature_layer`); -1: all, as the parent."""

    image_aspect_ratio: str | None = None
    """`square` (pictures are stretched to the model's square, as the published models do) or `pad` (padded with the
    mean colour). Default: what the checkpoint was trained with, for a new model `square`."""

    version: Literal["chatml", "qwen", "qwen_2"] = "chatml"
    """Conversation format. Qwen's ChatML is the only one, by any of these names."""

    pretrain_mm_mlp_adapter: str | None = None
    """`mm_projector.safetensors` of a stage 1 run: projector and context tokens."""

    tune_mm_mlp_adapter: bool | None = None
    """Train projector and context tokens (see `tune_context_tokens`) and nothing else. Default: in stage 1."""

    unfreeze_mm_vision_tower: bool = False
    """Train the vision tower too; `mm_vision_tower_lr` is its learning rate."""

    tune_context_tokens: bool = True
    """Train the context tokens' embeddings."""

    freeze_backbone: bool | None = None
    """Keep the language model as it is. Default: in stage 1."""

    plugin: list[str] | None = None
    """Python files of yours that register descriptors, attention backends, vision towers, policies or benchmarks; every
    rank runs them as they are. Those of a file, of its bases and of the command line are added up; null drops those
    before."""

    attn_implementation: str | None = None
    """Attention of the vision tower (`sdpa`, `eager`). The decoder's is `gaze_backend`."""

    def __post_init__(self) -> None:
        if self.image_aspect_ratio is not None:
            check_aspect(self.image_aspect_ratio)
