"""`attach_gaze`: hooks on the modules of one model and the attention interface of transformers; no class is changed.

When this model encodes pictures, their grids are noted; before it runs, a hook notes its token ids; before its decoder
runs, another hands the layout to the attention as `gaze_context=`. Layouts of tokens that a key-value cache holds are
kept beside it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from cambrian_gaze.attention import GazeRecorder
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.derive import derive_layout
from cambrian_gaze.gaze.layout import TOKEN_FIELDS, TokenLayout
from cambrian_gaze.models.attach.families import FAMILIES, KINDS, Picture, visuals_of
from cambrian_gaze.models.generation_settings import settle
from cambrian_gaze.models.hf_internals import ATTENTION_NAME, CACHE, build_context, pop_cache

MISSING = object()


def attach_gaze(
    model: nn.Module, gaze: GazeConfig | dict[str, Any] | None = None, tokenizer: Any = None
) -> AttachedGaze:
    """Give the decoder of a dense vision-language model gaze attention. Its weights stay as they are.

    Args:
        model: a LLaVA-OneVision, Qwen2-VL or Qwen2.5-VL model of transformers, with or without a head, wrapped (PEFT)
            or not.
        gaze: region size and budget, a `GazeConfig` or its fields; there are no context tokens (|C| = 0). None: as
            `config.gaze` has it, which `save_pretrained` keeps.
        tokenizer: where it is given, `generate` also ends at its own end and at the end of a ChatML turn; otherwise
            the model ends its answers as it did.

    Returns: the handle that changes the budget, records and detaches.

    Raises: ValueError for a model of another family, one that has gaze already, and options that cannot work here.
    """
    base = _base_of(model)
    if base.language_model.config._attn_implementation == ATTENTION_NAME:
        raise ValueError("this model has gaze attention already; detach it first, or change it by `.use(...)`")
    if gaze is None:
        gaze = getattr(base.config, "gaze", None)
        if gaze is None:
            raise ValueError("give region size and budget, such as {'image': {'region_size': [1, 6, 6], 'top_k': 2}}")
    if getattr(base.config, "vision_feature_select_strategy", "full") != "full":
        raise ValueError(
            f"vision_feature_select_strategy={base.config.vision_feature_select_strategy!r} leaves no full grid of "
            "patches; gaze attaches to towers without a class token ('full')"
        )
    config = gaze if isinstance(gaze, GazeConfig) else GazeConfig.from_dict({"num_context_tokens": 0} | dict(gaze))
    _check(config, base)
    attached = AttachedGaze(base, config)
    if tokenizer is not None:
        settle(model, tokenizer)
    return attached


class AttachedGaze:
    """Gaze attention on one model, until `detach`."""

    def __init__(self, base: nn.Module, config: GazeConfig) -> None:
        self.config = config
        self._base, self._decoder = base, base.language_model
        self._was = self._decoder.config._attn_implementation
        self._had = getattr(base.config, "gaze", MISSING)
        self._names = list(inspect.signature(base.forward).parameters)
        self._pictures: dict[int, list[Picture]] = {}
        self._ids: Tensor | None = None
        self._keys: TokenLayout | None = None
        self._layouts: WeakKeyDictionary[Cache, TokenLayout] = WeakKeyDictionary()
        self._recorders: list[GazeRecorder] | None = None
        self._decoder.set_attn_implementation(ATTENTION_NAME)
        base.config.gaze = config.to_dict()
        for kind, name in KINDS.items():
            # On this instance alone: `generate` encodes pictures ahead of the forward call and hands over no grids.
            setattr(base, f"get_{name}_features", self._noting(kind, getattr(base, f"get_{name}_features")))
        self._hooks = [
            base.register_forward_pre_hook(self._before_model, with_kwargs=True),
            self._decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True),
            self._decoder.register_forward_hook(self._after_decoder),
        ]

    def use(self, **options: Any) -> None:
        """Change the budget or other options from the next call on, such as `top_k=4`."""
        config = self.config.override(**options)
        _check(config, self._base)
        self.config = config
        self._base.config.gaze = config.to_dict()

    @contextmanager
    def recording(self) -> Iterator[list[GazeRecorder]]:
        """Yields a list that grows by one `GazeRecorder` per forward call: what was attended, as counted."""
        self._recorders = []
        try:
            yield self._recorders
        finally:
            self._recorders = None

    def detach(self) -> None:
        """The model as it was before. Calling it again does nothing."""
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for name in KINDS.values():
            delattr(self._base, f"get_{name}_features")
        self._decoder.set_attn_implementation(self._was)
        if self._had is MISSING:
            del self._base.config.gaze
        else:
            self._base.config.gaze = self._had

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = dict(zip(self._names, args, strict=False)) | kwargs
        self._ids = inputs.get("input_ids")
        if self._ids is None:
            raise ValueError("an attached model needs input_ids: the placeholders in them say where the pictures lie")

    def _noting(self, kind: int, encode: Callable[..., Any]) -> Callable[..., Any]:
        """`encode`, and the grids of what it is given."""
        arguments = inspect.signature(encode)

        @functools.wraps(encode)
        def noting(*args: Any, **kwargs: Any) -> Any:
            given = arguments.bind(*args, **kwargs).arguments
            self._pictures[kind] = FAMILIES[self._base.config.model_type](self._base.config, kind, given)
            return encode(*args, **kwargs)

        return noting

    def _before_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ids, self._ids = self._ids, None
        if ids is None:
            raise ValueError("the decoder was called by itself; call the whole model, or detach its gaze first")
        embeds, mask = kwargs["inputs_embeds"], kwargs.get("attention_mask")
        rows, length = ids.shape
        if mask is None:
            mask = torch.ones((rows, length), dtype=torch.int64, device=embeds.device)
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            raise ValueError("gaze needs the attention mask as [rows, tokens]; use the default cache, not a static one")
        past = self._past(pop_cache(dict(kwargs)), rows)
        # One token after others was generated, and is text even if its id is that of a placeholder.
        pictures = self._pictures if past is None or length > 1 else None
        visuals = visuals_of(self._base.config, ids, pictures)
        last = None if past is None else past.tokens(slice(-1, None))
        grids = torch.tensor(visuals.grids) if visuals.grids else None
        layout = derive_layout(
            visuals.types, mask[:, -length:], grids, self.config, past=last, routed=~visuals.off_grid
        )
        if not self.config.route_prompt and length > 1:
            if past is not None:
                raise ValueError(
                    f"{length} tokens came at once after {past.shape[1]} others, and with route_prompt=False only the "
                    "last token of the whole prompt routes: give the prompt in one call (prefill_chunk_size=None)"
                )
            end = torch.arange(length, device=embeds.device) == length - 1
            layout = layout.with_routed(layout.routed & end)
        self._keys = layout if past is None else _joined(past, layout)
        recorder = None
        if self._recorders is not None:
            recorder = GazeRecorder()
            self._recorders.append(recorder)
        context = build_context(module, embeds, self.config, layout, key_layout=self._keys, recorder=recorder)
        return args, kwargs | {"gaze_context": context}

    def _after_decoder(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        keys, self._keys = self._keys, None
        caches = output if isinstance(output, tuple) else [getattr(output, CACHE, None)]
        for cache in caches:
            if isinstance(cache, Cache):
                self._layouts[cache] = keys

    def _past(self, cache: Cache | None, rows: int) -> TokenLayout | None:
        """Layout of what the cache holds. Beam search reorders rows among those of one sample, which are laid out
        alike: nothing to do for it here."""
        held = 0 if cache is None else cache.get_seq_length()
        if not held:
            return None
        past = self._layouts.get(cache)
        if past is None or past.shape[0] != rows or past.shape[1] < held:
            known = "nothing" if past is None else f"{past.shape[0]} rows of {past.shape[1]} tokens"
            raise ValueError(
                f"the cache holds {rows} rows of {held} tokens, of which this model's gaze has seen {known}; start "
                "with an empty cache"
            )
        if past.shape[1] > held:
            cut = past.tokens(slice(0, held))
            if past.num_regions and int(past.region_end.masked_fill(past.region_size == 0, 0).max()) > held:
                raise ValueError(f"the cache was cut to {held} tokens, through an image or video; start with a new one")
            gone = (past.role[:, held:] > 0).sum(1)
            past = dataclasses.replace(cut, next_position=cut.next_position - gone)
        return past


def _base_of(model: nn.Module) -> nn.Module:
    """The part of a model that holds its decoder, by family."""
    for module in model.modules():
        family = getattr(getattr(module, "config", None), "model_type", None)
        if family in FAMILIES and hasattr(module, "language_model"):
            return module
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    raise ValueError(
        f"gaze cannot attach to a {kind!r} model: where its visual tokens lie is known for {', '.join(FAMILIES)} only; "
        "a Cambrian-Gaze model needs no attaching"
    )


def _check(config: GazeConfig, base: nn.Module) -> None:
    config.check_layers(base.config.get_text_config().num_hidden_layers)
    if config.num_context_tokens:
        raise ValueError(
            f"num_context_tokens is {config.num_context_tokens}, but an attached model has no context tokens: set it "
            "to 0"
        )
    if config.descriptor_keys == "pre_rope":
        raise ValueError("descriptor_keys='pre_rope' is not supported here: families rotate keys in ways of their own")


def _joined(past: TokenLayout, new: TokenLayout) -> TokenLayout:
    """Layout of all keys: what the cache holds, then this call's tokens."""
    fields = {name: torch.cat([getattr(past, name), getattr(new, name)], 1) for name in TOKEN_FIELDS}
    return dataclasses.replace(new, **fields)
