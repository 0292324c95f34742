"""The families of towers that come with the package."""

from __future__ import annotations

from cambrian_gaze.models.tower.family import TowerFamily

SIGLIP = TowerFamily(
    model_type="siglip_vision_model",
    title="SigLIP or SigLIP2 with a fixed resolution",
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
    config_values={"vision_use_head": False},
    prefixes=("vision_model.",),
    left_out={
        "text_model.": "SigLIP's text tower and loss",
        "logit_": "SigLIP's text tower and loss",
        "head.": "the pooling head, whose output is not used",
        "embeddings.position_ids": "a buffer that is computed",
    },
    behind_layers=("post_layernorm",),
)
"""`SiglipVisionModel`, alone or in a `SiglipModel`; read after its last norm (paper, section 4)."""

CLIP = TowerFamily(
    model_type="clip_vision_model",
    title="CLIP",
    image_mean=(0.48145466, 0.4578275, 0.40821073),
    image_std=(0.26862954, 0.26130258, 0.27577711),
    image_processor="transformers.models.clip.image_processing_pil_clip:CLIPImageProcessorPil",
    image_options={"do_center_crop": False},
    leading_tokens=1,
    feature_layer=-2,
    prefixes=("vision_model.",),
    left_out={
        "text_model.": "CLIP's text tower and loss",
        "text_projection.": "CLIP's text tower and loss",
        "logit_scale": "CLIP's text tower and loss",
        "visual_projection.": "the projection of CLIP's class token, which is not used",
        "embeddings.position_ids": "a buffer that is computed",
    },
    never_used=("post_layernorm",),
)
"""`CLIPVisionModel`, alone or in a `CLIPModel`; its last layer but one, without class token, as LLaVA-1.5 reads it. Its
last norm is of the class token alone."""

DINOV2 = TowerFamily(
    model_type="dinov2",
    title="DINOv2",
    image_mean=(0.485, 0.456, 0.406),
    image_std=(0.229, 0.224, 0.225),
    image_processor="transformers.models.bit.image_processing_pil_bit:BitImageProcessorPil",
    image_options={"do_center_crop": False},
    leading_tokens=1,
    prefixes=("dinov2.",),
    left_out={"classifier.": "the classifier"},
    layers="encoder.layer",
    behind_layers=("layernorm",),
    never_used=("embeddings.mask_token",),
    refuses=lambda config: "two weights of its MLP are stored as one (use_swiglu_ffn)" if config.use_swiglu_ffn else "",
)
"""`Dinov2Model`, alone or below a classifier; read after its last norm, without class token."""
