"""`CambrianGazeModel`: tower → projector → context tokens → decoder with gaze attention.

Shapes: B rows, S tokens of a row, N images and frames of the batch, h·w visual tokens of each after the projector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast

from cambrian_gaze import attention
from cambrian_gaze.attention import GazeContext, GazeRecorder, GazeStats, SequenceGroup, SequenceShards
from cambrian_gaze.attention.sequence import check_heads
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.derive import derive_layout
from cambrian_gaze.gaze.layout import CONTEXT, PAD, VISUAL, TokenLayout
from cambrian_gaze.gaze.visibility import hidden_of
from cambrian_gaze.models.cache.cache import GazeCache
from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.folders.adapter_check import refuse_adapter
from cambrian_gaze.models.folders.opening import check_fit, opening
from cambrian_gaze.models.hf_internals import (
    ATTENTION_NAME,
    CACHE,
    CACHE_NAMES,
    EitherCacheName,
    check_attention,
    for_the_tower,
    heads_of,
    one_cache,
    refuse_attentions,
    wants_dict,
)
from cambrian_gaze.models.policies import compressed
from cambrian_gaze.models.projector import GridConvolution, Projector
from cambrian_gaze.models.trace import TraceBuilder

_OTHER_WEIGHTS = {"variant", "subfolder", "gguf_file", "state_dict", "key_mapping", "ignore_mismatched_sizes"}
"""Options of `from_pretrained` with which the folder's weights are not simply the model's."""


@dataclass
class CambrianGazeModelOutput(EitherCacheName, BaseModelOutputWithPast):
    """Output of the model without its head."""

    gaze: GazeStats | None = None


class GazeEmbeddings(nn.Module):
    """The parameters that a dense model lacks: |C| context tokens (paper, section 3.3)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.context_tokens = nn.Parameter(torch.empty(count, width)) if count else None


class CambrianGazePreTrainedModel(PreTrainedModel):
    """What the two model classes share: configuration, initialisation, presets."""

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

    @classmethod
    def from_preset(cls, name: str, **overrides: Any):
        """A model of a preset's sizes with fresh weights; nothing is downloaded. Under `torch.device("meta")` no
        memory is taken. `overrides` replace fields of the configuration."""
        return cls(CambrianGazeConfig.from_preset(name, **overrides))


def _ours(kind: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class of this package that `kind` is or adds to: what a subclass adds need not be in the weights."""
    package = __name__.split(".")[0]
    return next(base for base in kind.__mro__ if base.__module__.split(".")[0] == package)


class CambrianGazeModel(CambrianGazePreTrainedModel):
    """Tower, projector, context tokens and decoder."""

    def __init__(self, config: CambrianGazeConfig) -> None:
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.mm_projector = Projector(config)
        self.gaze = GazeEmbeddings(config.gaze_config.num_context_tokens, config.text_config.hidden_size)
        self.language_model = AutoModel.from_config(config.text_config, attn_implementation=ATTENTION_NAME)
        self.dense_decoder = False
        """Set for benches that compare: the decoder was given another attention on purpose. Without a cache only."""
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
        own = self.config.gaze_config
        if isinstance(gaze, GazeConfig):
            if gaze.num_context_tokens != own.num_context_tokens:
                raise ValueError(
                    f"this model has {own.num_context_tokens} context tokens, the gaze configuration given has "
                    f"{gaze.num_context_tokens}; context_visible=False hides them"
                )
            return gaze.check_layers(self.config.text_config.num_hidden_layers)
        if gaze is not None and not isinstance(gaze, Mapping):
            raise ValueError(f"gaze must be options such as {{'top_k': 2}}, or a GazeConfig, got {gaze!r}")
        return own.override(**gaze).check_layers(self.config.text_config.num_hidden_layers) if gaze else own

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """[N, 3, H, W] → [N, h·w, decoder width]."""
        tower, side = self.vision_tower, self.config.vision_config.image_size
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[1:]) != (3, side, side):
            raise ValueError(
                f"pixel_values must be [N, 3, {side}, {side}], got {list(pixel_values.shape)}; "
                "use the processor that was saved with this model"
            )
        pixel_values = pixel_values.to(device=tower.device, dtype=tower.dtype)
        layer = self.config.vision_feature_layer
        if layer is None:
            features = tower(pixel_values).last_hidden_state
        else:
            features = tower(pixel_values, output_hidden_states=True).hidden_states[layer]
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
        context_tokens = self.gaze.context_tokens
        if pixel_values is None:
            if self.training:
                return inputs_embeds + self._zero_weight_pass(inputs_embeds)
            return inputs_embeds
        if sequence_group is None:
            features = compressed(self.get_image_features, pixel_values, cache, self.config.grid)
        else:
            own = self.get_image_features(sequence_group.own(pixel_values, dim=0))
            features = sequence_group.gather(own)[: len(pixel_values)]
        frames = [(h, w) for t, h, w in grid_thw.tolist() for _ in range(t)] if grid_thw is not None else []
        if len(frames) != len(features) or any(grid != self.config.grid for grid in frames):
            grids = ", ".join(f"{h}×{w}" for h, w in sorted(set(frames)))
            raise ValueError(
                f"pixel_values hold {len(features)} images or frames of {self.config.grid[0]}×{self.config.grid[1]} "
                f"visual tokens each, but grid_thw describes {len(frames)} of {grids or 'none'}, counted after the "
                "projector; use the processor that was saved with this model"
            )
        features = features.flatten(0, 1).to(inputs_embeds)
        inputs_embeds = inputs_embeds.masked_scatter((layout.role == VISUAL)[..., None], features)
        if context_tokens is not None:
            tokens = context_tokens.to(inputs_embeds).repeat(len(frames), 1)
            inputs_embeds = inputs_embeds.masked_scatter((layout.role == CONTEXT)[..., None], tokens)
        return inputs_embeds

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
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        _check_shapes(inputs_embeds, mm_token_type_ids=mm_token_type_ids, sample_ids=sample_ids, routed=routed)
        config = self.resolve_gaze(gaze)
        if sequence_group is not None:
            if use_cache or cache is not None or gaze_trace is not None:
                raise ValueError("sequence parallelism has no cache and no trace: generate without sequence_group")
            text = self.config.text_config
            check_heads(text.num_attention_heads, text.num_key_value_heads, sequence_group.size)
        if use_cache and cache is None:
            cache = GazeCache(config)
        layout = self._layout(
            inputs_embeds, attention_mask, mm_token_type_ids, grid_thw, sample_ids, routed, continues, config, cache
        )
        inputs_embeds = self.splice(inputs_embeds, layout, pixel_values, grid_thw, sequence_group, cache)
        position_ids = layout.position_ids if position_ids is None else position_ids
        recorder = None
        if return_gaze or gaze_trace is not None:
            recorder = GazeRecorder(not return_gaze, num_regions=layout.num_regions, routes=config.routes)
        mass: list[Tensor] | None = [] if return_gaze == "mass" else None
        shards = None if sequence_group is None else SequenceShards(sequence_group, inputs_embeds.shape[1])
        context = self._context(
            config, layout, cache, inputs_embeds, position_ids, recorder, mass, hidden_regions, shards
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
    def _layout(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        mm_token_type_ids: Tensor | None,
        grid_thw: Tensor | None,
        sample_ids: Tensor | None,
        routed: Tensor | None,
        continues: Tensor | None,
        config: GazeConfig,
        cache: GazeCache | None,
    ) -> TokenLayout:
        """Layout of this call's tokens."""
        if cache is not None and not isinstance(cache, GazeCache):
            raise ValueError(
                f"the cache must be a GazeCache, got {type(cache).__name__}; leave it out, or pass "
                "cambrian_gaze.models.cache.cache.GazeCache(model.config.gaze_config)"
            )
        length = inputs_embeds.shape[1]
        if attention_mask is None:
            attention_mask = torch.ones(inputs_embeds.shape[:2], dtype=torch.int64, device=inputs_embeds.device)
        past = None if cache is None else cache.last
        layout = derive_layout(
            mm_token_type_ids, attention_mask[:, -length:], grid_thw, config, sample_ids, past, routed, continues
        )
        if not config.route_prompt and routed is None and not config.is_dense:
            if past is not None:
                raise ValueError(
                    "with route_prompt=False the text of the prompt is dense and that of the answer routes, and a call "
                    f"after {cache.length} cached tokens can hold either: say which by routed=, bool [B, S], as "
                    "`generate` does, or give the whole prompt in one call"
                )
            last = torch.where(layout.role == PAD, -1, layout.index).amax(1, keepdim=True)
            layout = layout.with_routed(layout.index == last)
        return layout

    @torch.compiler.disable
    def _context(
        self,
        config: GazeConfig,
        layout: TokenLayout,
        cache: GazeCache | None,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        recorder: GazeRecorder | None,
        mass: list[Tensor] | None,
        hidden_regions: Tensor | None,
        shards: SequenceShards | None,
    ) -> GazeContext:
        """The keyword that travels to every attention call."""
        rotary = None
        if config.descriptor_keys == "pre_rope":
            rotary = self.language_model.rotary_emb(inputs_embeds, position_ids)
        reads_cache = cache is not None and cache.length > 0
        if cache is not None:
            cache.check(config)
            cache.extend(layout, rotary)
        is_step = reads_cache and layout.shape[1] == 1 and cache.only_text_came
        hidden = None
        if hidden_regions is not None:
            if not config.route_prompt:
                raise ValueError("hidden_regions cannot be hidden from a prompt that does not route (route_prompt)")
            layers = [n for n in range(self.config.text_config.num_hidden_layers) if not config.routes(n)]
            if layers:
                raise ValueError(
                    f"hidden_regions cannot be hidden in layers that do not route ({', '.join(map(str, layers))}): "
                    'give a budget, such as gaze={"top_k": 2}, and no dense_layers'
                )
            hidden = hidden_of(hidden_regions.to(layout.role.device), layout)
        saving = self.training and torch.is_grad_enabled() and checkpoints_activations(self.language_model)
        context = GazeContext(
            config=config,
            layout=layout,
            key_layout=cache.key_layout() if reads_cache and not is_step else layout,
            hidden=hidden,
            cache=cache,
            reads_cache=reads_cache,
            is_step=is_step,
            rotary=rotary,
            recorder=recorder,
            mass=mass,
            saved={} if saving else None,
            shards=shards,
            policy=None if cache is None else cache.policy,
        )
        heads = heads_of(self.config.text_config, self.training)
        return attention.prepare(context, inputs_embeds.device, inputs_embeds.dtype, heads)


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


def checkpoints_activations(decoder: nn.Module) -> bool:
    """Whether the decoder recomputes activations in the backward pass."""
    return any(getattr(module, "gradient_checkpointing", False) for module in decoder.modules())
