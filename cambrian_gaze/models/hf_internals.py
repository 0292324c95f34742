"""Everything that touches transformers' internals: the attention interface and what it is handed, the names of the
cache and of weights, and what `generate` does to inputs.

The attention function is registered under a name of its own together with a mask function: without one transformers
hands over no mask and says nothing. Ours builds its mask from the `GazeContext`, and refuses to run without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_outputs import BaseModelOutputWithPast

from cambrian_gaze import attention
from cambrian_gaze.attention import GazeContext, Heads
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import TokenLayout
from cambrian_gaze.gaze.token_types import IMAGE_TYPE, VIDEO_TYPE
from cambrian_gaze.models.cache.cache import GazeCache

ATTENTION_NAME = "gaze"
"""Name in transformers' attention interface; the decoder's `_attn_implementation`."""


CACHE_NAMES = ("cache", "past_key_values")
CACHE = CACHE_NAMES["past_key_values" in {field.name for field in dataclasses.fields(BaseModelOutputWithPast)}]
"""What the installed transformers calls the cache, as an argument of forward calls and as a field of their outputs:
`cache` from 5.24 on, `past_key_values` before. Ours take and answer to both."""


def one_cache(cache: Any, past_key_values: Any) -> Any:
    """The cache, which may be given under either name. Raises: ValueError where both are given."""
    if cache is not None and past_key_values is not None:
        raise ValueError("cache and past_key_values are two names of one argument; give one of them")
    return past_key_values if cache is None else cache


def pop_cache(kwargs: dict[str, Any]) -> Any:
    """Take the cache out of keyword arguments, where it stands under either name; None where there is none."""
    return one_cache(*(kwargs.pop(name, None) for name in CACHE_NAMES))


class EitherCacheName:
    """Stands before an output class of transformers, so that its cache is found under both names."""

    if CACHE != "cache":  # transformers answers to the old name where its own is the new one

        @property
        def cache(self) -> Any:
            return self.past_key_values

        def __contains__(self, key: Any) -> bool:
            return super().__contains__(_field(key))

        def __getitem__(self, key: Any) -> Any:
            return super().__getitem__(_field(key))

        def get(self, key: Any, default: Any = None) -> Any:
            return super().get(_field(key), default)


def _field(key: Any) -> Any:
    return CACHE if key == "cache" else key


@torch.compiler.disable
def build_context(
    decoder: nn.Module,
    inputs_embeds: Tensor,
    config: GazeConfig,
    layout: TokenLayout,
    cache: GazeCache | None = None,
    key_layout: TokenLayout | None = None,
    **options: Any,
) -> GazeContext:
    """What the layers of a decoder are handed as `gaze_context=` in one forward call.

    Args:
        decoder: a decoder of transformers whose attention is `ATTENTION_NAME`.
        inputs_embeds: [B, S, width], of this call's tokens.
        config: the gaze configuration under this call's options.
        layout: of this call's tokens.
        cache: the gaze cache, extended by them already.
        key_layout: of the keys that the layers are handed, where another cache holds earlier ones.
        options: other fields of `GazeContext`: recorder, mass, hidden, rotary, shards.
    """
    reads_cache = cache is not None and cache.length > layout.shape[1]
    is_step = reads_cache and layout.shape[1] == 1 and cache.only_text_came
    if key_layout is None:
        key_layout = cache.key_layout() if reads_cache and not is_step else layout
    saving = decoder.training and torch.is_grad_enabled() and _checkpoints_activations(decoder)
    context = GazeContext(
        config=config,
        layout=layout,
        key_layout=key_layout,
        cache=cache,
        reads_cache=reads_cache,
        is_step=is_step,
        saved={} if saving else None,
        policy=None if cache is None else cache.policy,
        **options,
    )
    heads = _heads_of(decoder.config, decoder.training)
    return attention.prepare(context, inputs_embeds.device, inputs_embeds.dtype, heads)


@torch.compiler.disable
def gaze_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    gaze_context: GazeContext | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that decoders call: q [B, H, S, D], k and v [B, G, S, D] → [B, S, H, D].

    Under sequence parallelism S is this rank's share of the tokens; attention runs on all tokens of its share of heads.
    """
    if gaze_context is None:
        raise ValueError(
            "the decoder runs gaze attention but got no gaze_context=; call CambrianGazeForConditionalGeneration, or "
            "set attn_implementation='sdpa' to use the decoder by itself"
        )
    if sliding_window is not None:
        raise ValueError(
            f"gaze attention has no sliding window, but layer {module.layer_idx} asks for {sliding_window}"
        )
    shards = gaze_context.shards
    if shards is not None:
        query, key, value = (shards.to_heads(x) for x in (query, key, value))
    if gaze_context.cache is None and key.shape[2] != gaze_context.key_layout.shape[1]:
        raise ValueError(
            f"the cache handed over {key.shape[2]} keys for {gaze_context.key_layout.shape[1]} tokens; gaze attention "
            "needs one that grows by what it stores, such as transformers' DynamicCache"
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = attention.attend(query, key, value, gaze_context, layer=module.layer_idx, scaling=scaling, dropout=dropout)
    if shards is not None:
        out = shards.to_tokens(out)
    return out.transpose(1, 2).contiguous(), None


def _checkpoints_activations(decoder: nn.Module) -> bool:
    """Whether the decoder recomputes activations in the backward pass."""
    return any(getattr(module, "gradient_checkpointing", False) for module in decoder.modules())


def _heads_of(config: Any, training: bool) -> Heads:
    """A decoder's attention, from its configuration."""
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dropout = getattr(config, "attention_dropout", 0.0) if training else 0.0
    return Heads(config.num_attention_heads, groups, dim, dropout)


def gaze_mask(*args: Any, **kwargs: Any) -> None:
    """No mask: who sees whom comes from the `GazeContext`."""
    return None


AttentionInterface.register(ATTENTION_NAME, gaze_attention_forward)
AttentionMaskInterface.register(ATTENTION_NAME, gaze_mask)


def names_in_memory(model: PreTrainedModel) -> Callable[[str], str]:
    """From the name that a published checkpoint has for a tensor of `model` to the one that the installed transformers
    has for it in memory. Tensors that it cuts or joins while it reads them keep their names."""
    own = model.state_dict().keys()
    renamings = [x for x in get_model_conversion_mapping(model, add_legacy=False) if isinstance(x, WeightRenaming)]

    def in_memory(name: str) -> str:
        if name not in own:
            for renaming in renamings:
                name = renaming.rename_source_key(name)[0]
        return name

    return in_memory


def wants_dict(config: Any, kwargs: dict[str, Any]) -> bool:
    """Take `return_dict` out of the keyword arguments of a forward call; the configuration's, where it is not given."""
    given = kwargs.pop("return_dict", None)
    return bool(getattr(config, "return_dict", True) if given is None else given)


def refuse_attentions(config: Any, kwargs: dict[str, Any]) -> None:
    """Raises: ValueError for `output_attentions`, given or configured: there is no matrix of attention weights."""
    given = kwargs.pop("output_attentions", None)
    if getattr(config, "output_attentions", False) if given is None else given:
        raise ValueError(
            "output_attentions: gaze attention computes no matrix of attention weights. return_gaze=True tells what "
            "was attended, in forward calls as counts and in generate as the regions of each token, layer and head"
        )


def check_attention(wanted: Any) -> None:
    """Refuse another attention for the decoder, named in the dict form of `attn_implementation`, and one by a plain
    name that the tower cannot run either.

    Raises: ValueError for a decoder that is not to run gaze attention, and for a part that the model does not have.
    """
    if isinstance(wanted, str) and wanted.startswith(("flash_attention", "flex_attention", "paged")):
        raise ValueError(
            f"attn_implementation={wanted!r}: the decoder runs gaze attention, whose backend is "
            'gaze={\'backend\': …} ("auto" takes the fastest here). Leave it out; "sdpa" and "eager" are for the '
            "vision tower"
        )
    if not isinstance(wanted, dict):
        return
    if unknown := sorted(set(wanted) - {"", "vision_config", "text_config"}):
        raise ValueError(f"attn_implementation: no part {', '.join(unknown)}; known: vision_config, text_config")
    asked = wanted.get("text_config", ATTENTION_NAME)
    if asked not in (ATTENTION_NAME, None):
        raise ValueError(
            f"attn_implementation of text_config is {asked!r}, but the decoder runs gaze attention and nothing else: "
            "regions and budget would have no effect. Name vision_config alone; gaze={'keep_ratio': 1.0} attends to "
            "all regions, and `cambrian-gaze export` writes a dense model"
        )


def for_the_tower(wanted: Any) -> dict[str, Any]:
    """`attn_implementation` in dict form, for the vision tower alone; a plain name means the tower."""
    check_attention(wanted)
    if not isinstance(wanted, dict):
        wanted = {"vision_config": None if wanted == ATTENTION_NAME else wanted}
    tower = wanted.get("vision_config", wanted.get(""))
    return {} if tower is None else {"vision_config": tower}


def items_per_row(mm_token_type_ids: Tensor, grid_thw: Tensor | None) -> list[list[int]]:
    """Numbers of the images and videos that each row holds, from the counts of its visual tokens."""
    grids = [] if grid_thw is None else [int(t * h * w) for t, h, w in grid_thw.tolist()]
    rows, item = [], 0
    for left in ((mm_token_type_ids == IMAGE_TYPE) | (mm_token_type_ids == VIDEO_TYPE)).sum(1).tolist():
        mine = []
        while left > 0 and item < len(grids):
            mine.append(item)
            left -= grids[item]
            item += 1
        if left:
            raise ValueError(
                f"row {len(rows)} holds visual placeholders that no image or video of grid_thw accounts for"
            )
        rows.append(mine)
    if item != len(grids):
        raise ValueError(f"{len(grids)} images and videos were given but the text has placeholders for {item}")
    return rows


def take_items(pixel_values: Tensor | None, grid_thw: Tensor, items: list[int]) -> tuple[Tensor | None, Tensor | None]:
    """The frames and grids of some images and videos, in the order of `items`; None, None for no item."""
    if not items:
        return None, None
    frames = grid_thw[:, 0].tolist()
    starts = [sum(frames[:i]) for i in range(len(frames))]
    taken = [frame for i in items for frame in range(starts[i], starts[i] + frames[i])]
    pixels = None if pixel_values is None else pixel_values[torch.tensor(taken, device=pixel_values.device)]
    return pixels, grid_thw[torch.tensor(items, device=grid_thw.device)]


def repeat_rows(expand_size: int, input_ids: Tensor | None, model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Repeat images and videos by sample, as `generate` repeats the rows for beams and several sequences.

    Returns the visual inputs to put back after the base class has repeated everything else.
    """
    types, grids = model_kwargs.get("mm_token_type_ids"), model_kwargs.get("grid_thw")
    if grids is None or types is None or expand_size == 1:
        return {}
    order = [item for row in items_per_row(types, grids) for _ in range(expand_size) for item in row]
    pixels, grids = take_items(model_kwargs.get("pixel_values"), grids, order)
    return {"pixel_values": pixels, "grid_thw": grids}
