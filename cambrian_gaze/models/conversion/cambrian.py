"""What LLaVA, Cambrian and Cambrian-S checkpoints are made of: names of their tensors, fields of their configuration.

Their model is dense: tower, two-layer projector, decoder. What of it this project has no place for is refused, or left
out by an explicit choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from cambrian_gaze.data.media.aspect import check_aspect
from cambrian_gaze.models.conversion.weight_names import DECODER, HEAD, TOWER, Name, decoder_names, tower_names
from cambrian_gaze.models.tower.published import SIGLIP

DECODERS = {"cambrian_qwen": "qwen2", "llava_qwen": "qwen2"}
"""Upstream `model_type` → the decoder's. Other decoders have no ChatML, the only conversation format here."""

PROJECTOR = "model.mm_projector."
NEWLINE = "model.image_newline"
NEXT_FRAME_HEAD = "model.nfp_head."
TOWER_PREFIXES = ("model.vision_tower_aux_list.0.vision_tower.", "model.vision_tower.vision_tower.")
RECORD = "cambrian_upstream.json"
LEFT_OUT = "cambrian_upstream.safetensors"
"""Files of a converted model folder: upstream's configurations and names, and its tensors that the model lacks."""
GENERATION = "generation_config.json"

SYSTEM_PROMPT = "You are a helpful assistant."
"""What the parent says before every conversation of its Qwen models, in training too (`--version qwen_2`)."""

SVA = ("model.vision_sampler_", "model.mm_projector_aux_", "model.vision_query")

_SO400M = {"model_type": SIGLIP.model_type, "hidden_size": 1152, "intermediate_size": 4304}
_SO400M |= {"num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 384}


class Tower(NamedTuple):
    """A tower as upstream uses it."""

    config: dict[str, Any]
    hub_id: str
    feature_layer: int | None
    """As `CambrianGazeConfig.vision_feature_layer`, of the whole tower."""


TOWERS = {
    "google/siglip2-so400m-patch14-384": Tower(_SO400M | {"patch_size": 14}, "google/siglip2-so400m-patch14-384", -2),
    "google/siglip-so400m-patch14-384": Tower(_SO400M | {"patch_size": 14}, "google/siglip-so400m-patch14-384", -2),
    "google/siglip2-so400m-patch16-384": Tower(_SO400M | {"patch_size": 16}, "google/siglip2-so400m-patch16-384", -2),
    "siglip/CLIP-ViT-SO400M-14-384": Tower(_SO400M | {"patch_size": 14}, "google/siglip-so400m-patch14-384", None),
}
"""Towers by their upstream names. Those of transformers lose their last layer upstream and are read before the last
norm; those of open_clip are read after it. Patch 14 at 384 px gives 27×27 tokens."""


@dataclass(frozen=True)
class Choices:
    """What to do about parts of an upstream model that this one has no place for."""

    image_newline: Literal["refuse", "drop"] = "refuse"
    anyres: Literal["refuse", "base"] = "refuse"
    pooling: Literal["refuse", "native"] = "refuse"


def upstream_names(names: Iterable[str], tied: bool, layers: int) -> dict[str, Name]:
    """Names of a whole checkpoint in this project's model; of the tower, the first `layers` layers.

    Raises: ValueError where the checkpoint holds several towers or a tower in open_clip's layout.
    """
    names = list(names)
    _refuse_other_towers(names)
    found: dict[str, Name] = {}
    rest = []
    for name in names:
        prefix = next((prefix for prefix in TOWER_PREFIXES if name.startswith(prefix)), None)
        if prefix is not None:
            found[name] = truncated(tower_names([name.removeprefix(prefix)], SIGLIP), layers).popitem()[1]
        elif name.startswith(PROJECTOR):
            found[name] = Name(name)
        elif name == NEWLINE:
            found[name] = Name(None, "the row-newline token, which this model does not use")
        elif name.startswith(NEXT_FRAME_HEAD):
            found[name] = Name(None, "the head that predicts the next frame, which this model does not have")
        else:
            rest.append(name)
    return found | decoder_names(rest, tied)


def truncated(names: Mapping[str, Name], layers: int) -> dict[str, Name]:
    """Names of a tower without the layers from `layers` on."""
    begin = f"{TOWER}{SIGLIP.layers}."
    return {
        name: Name(None, "tower layers behind the one whose output is used")
        if named.target and named.target.startswith(begin) and int(named.target[len(begin) :].split(".")[0]) >= layers
        else named
        for name, named in names.items()
    }


def stored_layers(names: Iterable[str]) -> int:
    """Layers of the tower that a checkpoint holds; 0 where it was frozen and is not in it."""
    numbers = set()
    for name in names:
        prefix = next((prefix for prefix in TOWER_PREFIXES if name.startswith(prefix)), None)
        inner = SIGLIP.weight_name(name.removeprefix(prefix or ""), str)[0] or ""
        if prefix and inner.startswith(f"{SIGLIP.layers}."):
            numbers.add(int(inner.split(".")[2]))
    return max(numbers) + 1 if numbers else 0


def upstream_name(name: str) -> str:
    """What a tensor of this project's model is called in a checkpoint of Cambrian-S."""
    if name.startswith(DECODER):
        return "model." + name.removeprefix(DECODER)
    if name.startswith(TOWER):
        return f"{TOWER_PREFIXES[0]}{SIGLIP.prefixes[0]}{name.removeprefix(TOWER)}"
    if name == HEAD or name.startswith(PROJECTOR):
        return name
    raise ValueError(f"{name} has no place in a Cambrian checkpoint")


def refuse_sva(names: Iterable[str]) -> None:
    """Raises: ValueError where there are tensors of Cambrian-1's spatial vision aggregator."""
    sva = [name for name in names if name.startswith(SVA)]
    if sva:
        raise ValueError(
            f"this checkpoint holds a spatial vision aggregator (SVA; {len(sva)} tensors such as {sva[0]}): it mixes "
            "several towers by cross-attention, inside the decoder as well, and has no grid of visual tokens that "
            "gaze could select from. Only checkpoints with one tower and an mlp2x_gelu projector can be converted"
        )


def _refuse_other_towers(names: Iterable[str]) -> None:
    for name in names:
        if name.startswith(("model.vision_tower_aux_list.", "model.vision_tower.")) and not name.startswith(
            TOWER_PREFIXES
        ):
            raise ValueError(f"{name} belongs to a second tower or to an unknown layout; one SigLIP tower is supported")
        if any(name.startswith((f"{prefix}blocks.", f"{prefix}trunk.")) for prefix in TOWER_PREFIXES):
            raise ValueError(
                f"{name} is in the layout of open_clip and timm, whose fused tensors are not split here; give the "
                "tower by --vision in transformers' layout and take its tensors out of the checkpoint"
            )


def tower_name(config: Mapping[str, Any]) -> str:
    """Name of the one tower of an upstream configuration. Raises: ValueError where there is none, or several."""
    towers = config.get("mm_vision_tower_aux_list") or config.get("mm_vision_tower") or []
    towers = [towers] if isinstance(towers, str) else list(towers)
    if len(towers) != 1:
        raise ValueError(f"the checkpoint has {len(towers)} vision towers ({', '.join(towers)}); one is supported")
    return towers[0]


def check_config(config: Mapping[str, Any], grid: tuple[int, int], has_newline: bool, choices: Choices) -> list[str]:
    """Compare an upstream configuration with what this model computes.

    Args:
        config: the upstream `config.json`.
        grid: rows and columns of visual tokens.
        has_newline: whether the checkpoint holds `model.image_newline`.
        choices: of the user.

    Returns: what the choices change.
    Raises: ValueError with the reason and the flag, where a choice is needed or nothing can be done.
    """
    notes = []
    projector = config.get("mm_projector_type")
    if projector != "mlp2x_gelu":
        extra = "; the SVA has no grid of visual tokens that gaze could select from" if projector == "sva" else ""
        raise ValueError(f"mm_projector_type is {projector!r}; only 'mlp2x_gelu' can be converted{extra}")
    if config.get("mm_use_im_start_end"):
        raise ValueError("mm_use_im_start_end wraps images into two tokens, which this model does not have")
    if has_newline and uses_newline(config):
        if choices.image_newline == "refuse":
            raise ValueError(
                f"the checkpoint puts its learned model.image_newline after each of the {grid[0]} rows of visual "
                "tokens. Regions here are cut from rows × columns tokens, as the paper counts them, so the newline "
                "cannot be kept. --image_newline drop leaves it out: the answers then differ from upstream's until "
                "the model is fine-tuned without it"
            )
        notes.append("model.image_newline is dropped: answers differ from upstream's until fine-tuned without it")
    notes += aspect_of(config, choices)[1]
    notes += _pooling_of_videos(config, choices)
    tokens = grid[0] * grid[1]
    lengths = {key: config.get(key) for key in ("image_token_len", "si_token_len", "miv_token_len")}
    pooled = {key: int(length) for key, length in lengths.items() if length and 0 < int(length) != tokens}
    if pooled:
        text = ", ".join(f"{key} {length}" for key, length in pooled.items())
        if choices.pooling == "refuse":
            raise ValueError(
                f"upstream interpolates the projected features ({text}; the tower gives {grid[0]}×{grid[1]} = "
                f"{tokens}), which this model does not. --pooling native takes all {tokens} tokens of an image or frame"
            )
        notes.append(f"{text} upstream: all {tokens} tokens of an image or frame are used")
    return notes


def _pooling_of_videos(config: Mapping[str, Any], choices: Choices) -> list[str]:
    """Notes on frames that upstream pools by a stride. Raises: ValueError without a choice: it pools those of videos
    and not single images, and this model has one projector for both."""
    stride = config.get("mm_spatial_pool_stride")
    if stride is None or stride == 1:
        return []
    said = f"mm_spatial_pool_stride is {stride} (mode {config.get('mm_spatial_pool_mode', 'average')})"
    if choices.pooling == "refuse":
        raise ValueError(
            f"{said}: upstream pools the projected features of a video's frames {stride}×{stride}, and not those of "
            "single images. This model has one projector for both and cannot do so. --pooling native takes all tokens "
            "of a frame: images stay as upstream has them, answers about videos differ until the model is fine-tuned"
        )
    return [f"{said} upstream: all tokens of a frame are used, and answers about videos differ until fine-tuned"]


def uses_newline(config: Mapping[str, Any]) -> bool:
    """Whether upstream puts `model.image_newline` into the sequence: Cambrian unless told not to, LLaVA where it
    un-pads."""
    if str(config.get("model_type", "")).startswith("llava"):
        return "unpad" in str(config.get("mm_patch_merge_type", "flat"))
    return bool(config.get("mm_use_im_newline_token", True))


def aspect_of(config: dict[str, Any], choices: Choices) -> tuple[str, list[str]]:
    """This project's `image_aspect_ratio` for an upstream configuration, and notes.

    Raises: ValueError for what this model has no place for.
    """
    pads = str(config.get("model_type")).startswith("cambrian")
    aspect = config.get("image_aspect_ratio") or ("pad" if pads else "square")
    if str(aspect).startswith("anyres"):
        if choices.anyres == "refuse":
            raise ValueError(
                f"image_aspect_ratio is {aspect!r}: images are cut into tiles beside a base view, and this model sees "
                "one view. --anyres base converts it for the base view alone"
            )
        how, base = ("padded", "pad") if pads else ("stretched", "square")
        return base, [f"{aspect}: only the base view, {how} to a square, is used"]
    notes = [f"pictures are {'padded' if aspect == 'pad' else 'stretched'} to a square"]
    if aspect == "pad":
        notes.append("upstream masks or cuts off the tokens of the padding; here they are kept")
    return check_aspect(aspect), notes
