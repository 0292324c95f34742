"""`CambrianGazeModel`: tower → projector → context tokens → decoder with gaze attention.

Shapes: B rows, S tokens of a row, N images and frames of the batch, h·w visual tokens of each after the projector.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from cambrian_gaze.attention import GazeContext, GazeRecorder, GazeStats, SequenceGroup, SequenceShards, WeightRecorder
from cambrian_gaze.attention.sequence import check_heads
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.derive import derive_layout
from cambrian_gaze.gaze.layout import PAD, TokenLayout
from cambrian_gaze.gaze.visibility import hidden_of
from cambrian_gaze.models.cache.cache import GazeCache
from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.hf_internals import (
    ATTENTION_NAME,
    CACHE,
    EitherCacheName,
    build_context,
    one_cache,
    refuse_attentions,
    wants_dict,
)
from cambrian_gaze.models.policies import compressed
from cambrian_gaze.models.positions import own_mask, packed_samples
from cambrian_gaze.models.pretrained import CambrianGazePreTrainedModel
from cambrian_gaze.models.trace import TraceBuilder
from cambrian_gaze.models.visual.projector import Projector
from cambrian_gaze.models.visual.tokens import GazeEmbeddings, check_frames, image_grids, put_in_place


@dataclass
class CambrianGazeModelOutput(EitherCacheName, BaseModelOutputWithPast):
    """Output of the model without its head."""

    gaze: GazeStats | None = None


class CambrianGazeModel(CambrianGazePreTrainedModel):
    """Tower, projector, context tokens and decoder."""

    def __init__(self, config: CambrianGazeConfig) -> None:
        super().__init__(config)
        self.vision_tower = config.tower_family.build(config.vision_config)
        self.mm_projector = Projector(config)
        self.gaze = GazeEmbeddings(config.gaze_config.num_context_tokens, config.text_config.hidden_size)
        self.language_model = AutoModel.from_config(config.text_config, attn_implementation=ATTENTION_NAME)
        self.dense_decoder = False
        """Set for benches that compare: the decoder was given another attention on purpose. Without a cache only."""
        self._resolved: tuple[Any, GazeConfig] | None = None
        if config.embedding_std is not None:
            nn.init.normal_(self.get_input_embeddings().weight, std=config.embedding_std)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    @torch.compiler.disable
    def resolve_gaze(self, gaze: dict[str, Any] | GazeConfig | None) -> GazeConfig:
        """The checkpoint's gaze configuration under run-time options such as {"top_k": 2}."""
        asked, resolved = (self.config.gaze, gaze), self._resolved
        if resolved is None or resolved[0] != asked:
            # Kept for the next call: a decoding step asks for the same, and reading it anew costs as much as a layer.
            self._resolved = resolved = copy.deepcopy(asked), self.config.gaze_under(gaze)
        return resolved[1]

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """[N, 3, H, W] → [N, h·w, decoder width]."""
        tower, side = self.vision_tower, self.config.vision_config.image_size
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[1:]) != (3, side, side):
            raise ValueError(
                f"pixel_values must be [N, 3, {side}, {side}], got {list(pixel_values.shape)}; "
                "use the processor that was saved with this model"
            )
        pixel_values = pixel_values.to(device=tower.device, dtype=tower.dtype)
        features = self.config.tower_family.features(tower, pixel_values, self.config.vision_feature_layer)
        return self.mm_projector(features, self.config.tower_grid)

    @torch.compiler.disable
    def splice(
        self,
        inputs_embeds: Tensor,
        layout: TokenLayout,
        pixel_values: Tensor | None,
        grid_thw: Tensor | None,
        sequence_group: SequenceGroup | None = None,
        cache: GazeCache | None = None,
    ) -> Tensor:
        """Put visual features and context tokens in the place of their placeholders, [B, S, width]."""
        if pixel_values is None:
            return inputs_embeds + self._zero_weight_pass(inputs_embeds)
        if sequence_group is None:
            features = compressed(self.get_image_features, pixel_values, cache, self.config.grid)
        else:
            own = self.get_image_features(sequence_group.own(pixel_values, dim=0))
            features = sequence_group.gather(own)[: len(pixel_values)]
        check_frames(features, grid_thw, self.config.grid)
        return put_in_place(inputs_embeds, layout, features, self.gaze.context_tokens)

    def _zero_weight_pass(self, like: Tensor) -> Tensor:
        """Zero, through tower, projector and context tokens: a rank whose batch has no image has the same gradients
        to reduce as the others, so that none waits for ever."""
        tower, vision = self.vision_tower, self.config.vision_config
        if any(p.requires_grad for p in tower.parameters()):
            blank = torch.zeros(1, 3, vision.image_size, vision.image_size, device=like.device, dtype=tower.dtype)
            ghost = self.get_image_features(blank).sum()
        else:
            h, w = self.config.tower_grid
            weight = next(self.mm_projector.parameters())
            ghost = self.mm_projector(weight.new_zeros(1, h * w, vision.hidden_size), (h, w)).sum()
        if self.gaze.context_tokens is not None:
            ghost = ghost + self.gaze.context_tokens.sum()
        return (0.0 * ghost).to(like)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: GazeCache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        grid_thw: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        sample_ids: Tensor | None = None,
        continues: Tensor | None = None,
        routed: Tensor | None = None,
        use_cache: bool | None = None,
        gaze: dict[str, Any] | GazeConfig | None = None,
        return_gaze: bool | Literal["mass"] = False,
        gaze_trace: TraceBuilder | None = None,
        sequence_group: SequenceGroup | None = None,
        hidden_regions: Tensor | None = None,
        past_key_values: GazeCache | None = None,
        **kwargs: Any,
    ) -> CambrianGazeModelOutput:
        """See `CambrianGazeForConditionalGeneration.forward`."""
        cache = one_cache(cache, past_key_values)
        return_dict = wants_dict(self.config, kwargs)
        refuse_attentions(self.config, kwargs)
        self._check_decoder()
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if input_ids is not None and pixel_values is None and grid_thw is not None and len(grid_thw):
            raise ValueError(
                f"{len(grid_thw)} image or video grids came without pixel_values: their placeholders would stand for "
                "nothing; pass everything that the processor returns"
            )
        if grid_thw is None:
            grid_thw = image_grids(pixel_values, mm_token_type_ids, self.config.grid)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        _check_shapes(inputs_embeds, mm_token_type_ids=mm_token_type_ids, sample_ids=sample_ids, routed=routed)
        config = self.resolve_gaze(gaze)
        if sequence_group is not None:
            if use_cache or cache is not None or gaze_trace is not None:
                raise ValueError("sequence parallelism has no cache and no trace: generate without sequence_group")
            text = self.config.text_config
            check_heads(text.num_attention_heads, text.num_key_value_heads, sequence_group.size)
        if sample_ids is None and attention_mask is None and cache is None and not use_cache:
            sample_ids = packed_samples(position_ids, inputs_embeds)
        if use_cache and cache is None:
            cache = GazeCache(config)
        mask, past = own_mask(attention_mask, inputs_embeds, cache is not None), _last(cache)
        layout = _derive_layout(mm_token_type_ids, mask, grid_thw, config, sample_ids, past, routed, continues)
        if not config.route_prompt and routed is None and not config.is_dense:
            layout = _route_end(layout, cache)
        if pixel_values is not None or self.training:
            inputs_embeds = self.splice(inputs_embeds, layout, pixel_values, grid_thw, sequence_group, cache)
        position_ids = layout.position_ids if position_ids is None else position_ids
        rotary = None
        if config.descriptor_keys == "pre_rope":
            rotary = self.language_model.rotary_emb(inputs_embeds, position_ids)
        if cache is not None:
            cache.check(config)
            cache.extend(layout, rotary)
        recorder = None
        if return_gaze or gaze_trace is not None:
            recorder = GazeRecorder(not return_gaze, num_regions=layout.num_regions, routes=config.routes)
            if gaze_trace is not None and gaze_trace.weights:
                recorder.weights = WeightRecorder(dense={} if gaze_trace.dense else None)
        context = build_context(
            self.language_model,
            inputs_embeds,
            config,
            layout,
            cache,
            recorder=recorder,
            mass=[] if return_gaze == "mass" else None,
            hidden=None if hidden_regions is None else self._hidden(hidden_regions, config, layout),
            rotary=rotary,
            shards=None if sequence_group is None else SequenceShards(sequence_group, inputs_embeds.shape[1]),
        )
        if sequence_group is not None:
            inputs_embeds, position_ids = map(sequence_group.own, (inputs_embeds, position_ids))
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            use_cache=use_cache,
            gaze_context=context,
            return_dict=True,
            **{CACHE: cache},
            **kwargs,
        )
        if gaze_trace is not None:
            gaze_trace.add(recorder)
        if sequence_group is not None and return_gaze:
            recorder.sums = sequence_group.total(recorder.sums)
            recorder.usage = {layer: sequence_group.total(used) for layer, used in recorder.usage.items()}
        out = CambrianGazeModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            gaze=_stats(context) if return_gaze else None,
            **{CACHE: getattr(outputs, CACHE)},
        )
        return out if return_dict else out.to_tuple()

    def _check_decoder(self) -> None:
        """Raises: ValueError where the decoder was given another attention, so that gaze would be off."""
        own = self.language_model.config._attn_implementation
        if own != ATTENTION_NAME and not self.dense_decoder:
            raise ValueError(
                f"the decoder's attention is {own!r}, so that regions and budget would have no effect; give it back by "
                f"model.model.language_model.set_attn_implementation({ATTENTION_NAME!r}), or load the model again"
            )

    @torch.compiler.disable
    def _hidden(self, hidden_regions: Tensor, config: GazeConfig, layout: TokenLayout) -> Tensor:
        """bool [B, R]. Raises: ValueError where some text query does not choose among regions."""
        if not config.route_prompt:
            raise ValueError("hidden_regions cannot be hidden from a prompt that does not route (route_prompt)")
        layers = [n for n in range(self.config.text_config.num_hidden_layers) if not config.routes(n)]
        if layers:
            raise ValueError(
                f"hidden_regions cannot be hidden in layers that do not route ({', '.join(map(str, layers))}): "
                'give a budget, such as gaze={"top_k": 2}, and no dense_layers'
            )
        return hidden_of(hidden_regions.to(layout.role.device), layout)


_derive_layout = torch.compiler.disable(derive_layout)


def _last(cache: GazeCache | None) -> TokenLayout | None:
    """Layout of the last token that the cache holds. Raises: ValueError for a cache of another kind."""
    if cache is not None and not isinstance(cache, GazeCache):
        raise ValueError(
            f"the cache must be a GazeCache, got {type(cache).__name__}; leave it out, or pass "
            "cambrian_gaze.models.cache.cache.GazeCache(model.config.gaze_config)"
        )
    return None if cache is None else cache.last


@torch.compiler.disable
def _route_end(layout: TokenLayout, cache: GazeCache | None) -> TokenLayout:
    """The layout of a whole prompt of which the last token alone routes.

    Raises: ValueError where the cache holds tokens, so that the call may be the rest of a prompt or of an answer.
    """
    if cache is not None and cache.last is not None:
        raise ValueError(
            "with route_prompt=False the text of the prompt is dense and that of the answer routes, and a call "
            f"after {cache.length} cached tokens can hold either: say which by routed=, bool [B, S], as "
            "`generate` does, or give the whole prompt in one call"
        )
    last = torch.where(layout.role == PAD, -1, layout.index).amax(1, keepdim=True)
    return layout.with_routed(layout.index == last)


def _check_shapes(inputs_embeds: Tensor, **tensors: Tensor | None) -> None:
    """Raises ValueError naming a tensor that is not [B, S]."""
    shape = tuple(inputs_embeds.shape[:2])
    for name, tensor in tensors.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {list(shape)} as the tokens are, got {list(tensor.shape)}")


@torch.compiler.disable
def _stats(context: GazeContext) -> GazeStats:
    """What a forward call has counted."""
    stats = context.recorder.stats(context.offered_to_some)
    if context.mass:
        inside, asked = torch.stack(context.mass).sum(0).tolist()
        stats = dataclasses.replace(stats, topk_mass=inside / asked if asked else None)
    return stats
