"""Flags of scripts that were written for LLaVA, LLaVA-NeXT, Cambrian or an older transformers.

A value that asks for what is done anyway is taken, our own name stands in where there is one, and anything else is
refused with the reason; all of a command line at once. A name that has become a key of ours is left alone. Nothing here
imports torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Flag:
    """A flag of another project."""

    reason: str
    """What is done here instead; completes "NAME VALUE is not taken: …"."""
    same: tuple[str, ...] = ()
    """Values, in small letters, that ask for what is done anyway."""
    key: str | None = None
    """Our key of the same meaning: it gets the value."""


TRUE, FALSE = ("true", "yes", "on", "t", "y", "1"), ("false", "no", "off", "f", "n", "0")
"""Words for a boolean, in small letters."""
_OFF, _ON = (*FALSE, "none", ""), TRUE

_ONE_PICTURE = "a picture is one square at the tower's size; crops of it (anyres) are not made"
_TOKENS = "the tower's grid and mm_projector_type say how many tokens a picture has"
_SVA = "Cambrian-1's connector over several towers (SVA) is not part of this project; mm_projector_type has the others"
_NFP = "the head of Cambrian-S that predicts the next frame is not part of this project"
_PUSH = "upload the finished model by `cambrian-gaze push`, which writes its card"
_BY_LENGTH = "batches follow a shuffled plan that resumes exactly; `packing: true` takes away the padding"
_ROPE = "positions are the decoder's own; start from a decoder that was scaled"
_PRECISION = "bf16 and fp16 say the precision"
_LAUNCHED = "devices are the launcher's: nproc_per_node, CUDA_VISIBLE_DEVICES"

FLAGS: Mapping[str, Flag] = {
    # LLaVA and LLaVA-NeXT: the model
    "mm_use_im_start_end": Flag("there are no tokens around a picture", same=_OFF),
    "mm_use_im_patch_token": Flag("placeholders are Qwen's own tokens; none is added", same=_OFF),
    "mm_use_im_newline_token": Flag("rows of a picture have no token between them", same=_OFF),
    "mm_newline_position": Flag("rows and frames have no token between them", same=("no_token", "none", "")),
    "mm_patch_merge_type": Flag(_ONE_PICTURE, same=("flat",)),
    "mm_vision_select_feature": Flag("the tower's patches are taken; class tokens are dropped", same=("patch",)),
    "mm_resampler_type": Flag(_TOKENS, same=("none", "")),
    "mm_spatial_pool_mode": Flag("choose an mm_projector_type that compresses (conv3x3, avgpool2, maxpool2)"),
    "mm_spatial_pool_stride": Flag("choose an mm_projector_type that compresses (conv3x3, avgpool2, maxpool2)"),
    "mm_spatial_pool_out_channels": Flag(_TOKENS),
    "freeze_mm_mlp_adapter": Flag("the projector is trained in both stages", same=_OFF),
    "unfreeze_language_model": Flag("", key="freeze_backbone"),
    "tune_mm_vision_resampler": Flag(_TOKENS, same=_OFF),
    "freeze_mm_vision_resampler": Flag(_TOKENS, same=_OFF),
    "vision_tower_pretrained": Flag("vision_tower names the weights", same=("none", "")),
    "delay_load": Flag("the tower is loaded with the model", same=(*_OFF, *_ON)),
    "s2": Flag(_ONE_PICTURE, same=_OFF),
    "s2_scales": Flag(_ONE_PICTURE),
    "model_class_name": Flag("the model is always Cambrian-Gaze around the decoder of model_name_or_path"),
    "mpt_attn_impl": Flag("MPT decoders are not offered"),
    "rope_scaling_factor": Flag(_ROPE, same=("none", "", "1", "1.0")),
    "rope_scaling_type": Flag(_ROPE, same=("none", "")),
    "use_pos_skipping": Flag(_ROPE, same=_OFF),
    "pos_skipping_range": Flag(_ROPE),
    # LLaVA and LLaVA-NeXT: the data
    "image_grid_pinpoints": Flag(_ONE_PICTURE, same=("none", "")),
    "image_crop_resolution": Flag(_ONE_PICTURE, same=("none", "")),
    "image_split_resolution": Flag(_ONE_PICTURE, same=("none", "")),
    "lazy_preprocess": Flag("samples are read when a step needs them", same=_ON),
    "is_multimodal": Flag("data may hold pictures", same=_ON),
    "early_mix_text": Flag("a row of text takes part as it is", same=_OFF),
    "frames_upbound": Flag("", key="video_max_frames"),
    "force_sample": Flag("", key="video_force_sample"),
    "add_time_instruction": Flag("no sentence about times is put before a video", same=_OFF),
    "add_faster_video": Flag("a video has one stream of frames", same=_OFF),
    "faster_token_stride": Flag("a video has one stream of frames"),
    "model_max_length": Flag("", key="max_length"),
    # LLaVA and LLaVA-NeXT: the training
    "group_by_modality_length": Flag(_BY_LENGTH, same=_OFF),
    "group_by_modality_length_auto": Flag(_BY_LENGTH, same=_OFF),
    "group_by_varlen": Flag(_BY_LENGTH, same=_OFF),
    "cache_dir": Flag("downloads lie where the variable HF_HOME says", same=("none", "")),
    "quant_type": Flag("4 bits are NF4", same=("nf4",)),
    "lora_weight_path": Flag("a run with lora_enable begins with fresh adapters", same=("none", "")),
    "lora_bias": Flag("adapters have no bias", same=("none",)),
    "verbose_logging": Flag("log_level says how much is logged", same=_OFF),
    # Cambrian
    "vision_tower_aux_list": Flag(_SVA),
    "vision_tower_aux_token_len_list": Flag(_SVA),
    "image_token_len": Flag(_TOKENS),
    "vision_hidden_size": Flag(_SVA),
    "num_query_group": Flag(_SVA),
    "query_num_list": Flag(_SVA),
    "connector_depth": Flag(_SVA),
    "connector_only": Flag(_SVA, same=_ON),
    "start_of_vision_sampler_layers": Flag(_SVA),
    "stride_of_vision_sampler_layers": Flag(_SVA),
    "mm_vision_sampler_lr": Flag(_SVA),
    "si_token_len": Flag(_TOKENS),
    "miv_token_len": Flag(_TOKENS),
    "anyres_max_subimages": Flag(_ONE_PICTURE, same=("1",)),
    "max_images_per_sample": Flag("a sample has the pictures that fit its row; `overlong` says what becomes of more"),
    "nfp_head": Flag(_NFP, same=_OFF),
    "nfp_mse_loss_weight": Flag(_NFP, same=("0", "0.0")),
    "nfp_cosine_loss_weight": Flag(_NFP, same=("0", "0.0")),
    "load_weights": Flag("model_name_or_path names the model to start from", same=("none", "")),
    "train_continue": Flag("", key="auto_resume"),
    # transformers 4
    "evaluation_strategy": Flag("", key="eval_strategy"),
    "no_cuda": Flag("", key="use_cpu"),
    "per_gpu_train_batch_size": Flag("", key="per_device_train_batch_size"),
    "per_gpu_eval_batch_size": Flag("", key="per_device_eval_batch_size"),
    "group_by_length": Flag(_BY_LENGTH, same=_OFF),
    "overwrite_output_dir": Flag("nothing is overwritten: choose another output_dir", same=_OFF),
    "save_safetensors": Flag("weights are saved as safetensors", same=_ON),
    "logging_dir": Flag("TensorBoard's folder is the variable TENSORBOARD_LOGGING_DIR, by default in output_dir"),
    "include_tokens_per_second": Flag("tokens per second are logged in any case", same=(*_ON, *_OFF)),
    "include_inputs_for_metrics": Flag("the evaluation measures the loss alone", same=_OFF),
    "past_index": Flag("a training step keeps no cache", same=("-1",)),
    "jit_mode_eval": Flag("models are not traced by TorchScript", same=_OFF),
    "use_ipex": Flag("Intel's extension is not used", same=_OFF),
    "use_mps_device": Flag(_LAUNCHED, same=_OFF),
    "tpu_num_cores": Flag("TPUs are not offered", same=("none", "")),
    "half_precision_backend": Flag(_PRECISION, same=("auto",)),
    "fp16_backend": Flag(_PRECISION, same=("auto",)),
    "fp16_opt_level": Flag(_PRECISION, same=("o1",)),
    "adafactor": Flag("say `optim: adafactor`", same=_OFF),
    "sharded_ddp": Flag("DeepSpeed shards: train/deepspeed/zero2.json", same=("", "false")),
    "fsdp_min_num_params": Flag("DeepSpeed shards: train/deepspeed/zero2.json", same=("0",)),
    "fsdp_transformer_layer_cls_to_wrap": Flag("DeepSpeed shards: train/deepspeed/zero2.json", same=("none", "")),
    "dispatch_batches": Flag("every rank reads its own batches", same=_OFF),
    "split_batches": Flag("per_device_train_batch_size is a rank's own batch", same=_OFF),
    "mp_parameters": Flag("SageMaker's model parallelism is not offered", same=("",)),
    "ray_scope": Flag("hyperparameters are not searched", same=("last",)),
    "torchdynamo": Flag("torch_compile compiles", same=("none", "")),
    "push_to_hub_model_id": Flag(_PUSH, same=("none", "")),
    "push_to_hub_organization": Flag(_PUSH, same=("none", "")),
    "push_to_hub_token": Flag(_PUSH, same=("none", "")),
}  # fmt: skip

TUNABLE_PARTS = "mm_tunable_parts"
"""LLaVA-NeXT's list of the parts that train, which overrides the flags for one part each."""

_PARTS = {
    frozenset({"mm_mlp_adapter"}): {"tune_mm_mlp_adapter": True},
    frozenset({"mm_mlp_adapter", "mm_language_model"}): {
        **{"tune_mm_mlp_adapter": False, "freeze_backbone": False, "unfreeze_mm_vision_tower": False}
    },
    frozenset({"mm_mlp_adapter", "mm_vision_tower"}): {
        **{"tune_mm_mlp_adapter": False, "freeze_backbone": True, "unfreeze_mm_vision_tower": True}
    },
    frozenset({"mm_mlp_adapter", "mm_language_model", "mm_vision_tower"}): {
        **{"tune_mm_mlp_adapter": False, "freeze_backbone": False, "unfreeze_mm_vision_tower": True}
    },
}

_OPPOSITE = {"unfreeze_language_model"}

OWN_CHOICES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "version": (("chatml", "qwen", "qwen_2"), "prompts are in Qwen's ChatML in both stages"),
    "image_aspect_ratio": (("pad", "square"), f"{_ONE_PICTURE}; pad or square"),
    "mm_projector_type": (
        ("mlp2x_gelu", "conv3x3_mlp2x_gelu", "avgpool2_mlp2x_gelu", "maxpool2_mlp2x_gelu"),
        "the projector is mlp2x_gelu, or one of conv3x3_, avgpool2_ and maxpool2_mlp2x_gelu with 4 times fewer tokens",
    ),
}
"""Keys that are ours too, of which other projects have more values: those that are taken, and the reason."""


def translate(values: Mapping[str, Any], known: Collection[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """`values` of a file or command line under our own names, and what of them cannot be taken, with the reasons.

    Args:
        known: our own keys, which are left alone whatever other projects mean by them.
    """
    own = {key: value for key, value in values.items() if key in known or (key not in FLAGS and key != TUNABLE_PARTS)}
    refused: list[str] = []
    for name, value in values.items():
        if name in OWN_CHOICES and value is not None and _spelled(value) not in OWN_CHOICES[name][0]:
            refused.append(f"{name} {_short(value)} is not taken: {OWN_CHOICES[name][1]}")
        if name in own or value is None:
            continue
        if name == TUNABLE_PARTS:
            meant = _PARTS.get(frozenset(_spelled(value).replace(" ", "").split(",")))
            if meant is None:
                refused.append(
                    f"{name} {value} is not taken: the projector always trains, alone, with the language model, with "
                    "the vision tower, or with both: mm_mlp_adapter, mm_mlp_adapter,mm_language_model, …"
                )
                continue
        elif (flag := FLAGS[name]).key is not None:
            opposite = name in _OPPOSITE
            meant = {flag.key: (_spelled(value) in _OFF) if opposite else value}
        elif _spelled(value) in flag.same:
            continue
        else:
            taken = f" ({' or '.join(word for word in flag.same[:1])} is taken)" if any(flag.same) else ""
            refused.append(f"{name} {_short(value)} is not taken: {flag.reason}{taken}")
            continue
        for key, new in meant.items():
            if key in own and _spelled(own[key]) != _spelled(new):
                refused.append(f"{name} {_short(value)} and {key} {_short(own[key])} contradict each other; give one")
            own[key] = new
    return own, refused


def _spelled(value: Any) -> str:
    words = value if isinstance(value, (list, tuple)) else [value]
    return ",".join(map(str, words)).strip().lower()


def _short(value: Any) -> str:
    text = _spelled(value)
    return text if len(text) <= 60 else text[:57] + "..."
