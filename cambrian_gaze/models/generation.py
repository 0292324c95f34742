"""What `generate` needs to know about images, the gaze cache and the gaze trace."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import Tensor

from cambrian_gaze.attention.policy.policy import VisiblePolicy
from cambrian_gaze.attention.sequence import pad_to
from cambrian_gaze.gaze.layout import IMAGE, VIDEO
from cambrian_gaze.models.cache.cache import GazeCache
from cambrian_gaze.models.cache.paging import PagedGazeCache
from cambrian_gaze.models.hf_internals import CACHE, items_per_row, one_cache, pop_cache, repeat_rows, take_items
from cambrian_gaze.models.policies import policy_cache, policy_gaze
from cambrian_gaze.models.positions import check_positions
from cambrian_gaze.models.streaming import GazeStream
from cambrian_gaze.models.trace import TraceBuilder, boxes_of_row
from cambrian_gaze.models.visual.tokens import image_grids

logger = logging.getLogger(__name__)


_ASSISTED = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")
"""Options of `generate` that try several tokens in one call."""


class GazeGenerationMixin:
    """Overrides of `GenerationMixin`; stands before it among the bases."""

    @torch.no_grad()
    def generate(
        self,
        *args: Any,
        gaze: Any = None,
        return_gaze: bool | Literal["weights", "mass"] = False,
        gaze_offload: int | str | None = None,
        policy: VisiblePolicy | None = None,
        **kwargs: Any,
    ):
        """`GenerationMixin.generate` with four more options.

        Args:
            gaze: run-time options, e.g. {"top_k": 2} or {"kv_budget": 72}; default: the checkpoint's.
            return_gaze: return a ModelOutput whose `.gaze` is a `GazeTrace` beside `.sequences`. "weights" adds the
                softmax weights of every new token, `.gaze.weights`: computed beside the attention, whose result stays
                the same to the bit, from one query per step and layer and the keys that it saw. "mass" adds to these
                what the same queries would look at if they saw every visual token, `.gaze.weights.dense`: that reads
                all visual keys, whatever the budget. Not under a policy.
            gaze_offload: keep visual keys and values in host memory, with a pool of this size on the device for the
                regions looked at last: "2GiB" or bytes, over all layers. The answer is the same. `.gaze_paging` of
                the ModelOutput is a `PagingStats`; so is `.paging_stats()` of the cache.
            policy: a baseline of `cambrian_gaze.baselines` that says what is kept and seen of the visual tokens, in
                the place of routing; attends densely under a mask. With return_gaze, `.retained` of the ModelOutput is
                int64 [B, layers, KV heads], the visual entries left in memory at the end, and `.held` says which: by
                layer, bool [B, KV heads, L] over the places of the sequence.

        Raises: ValueError for an unknown option, where the pool is too small for the regions of one step, and where
        prompt and answer exceed the decoder's positions.
        """
        if policy is not None:
            gaze = policy_gaze(policy, gaze)
        if gaze is not None:
            self.model.resolve_gaze(gaze)
            kwargs["gaze"] = gaze
        if kwargs.get("grid_thw") is None and kwargs.get("pixel_values") is not None:
            kwargs["grid_thw"] = image_grids(kwargs["pixel_values"], kwargs.get("mm_token_type_ids"), self.config.grid)
        cache = pop_cache(kwargs)
        self._check_options(kwargs, return_gaze, policy)
        if gaze_offload is not None:
            cache = self._offloading_cache(gaze_offload, gaze, cache, kwargs)
        if policy is not None:
            if return_gaze == "mass":
                raise ValueError(f'policy {policy.name!r} leaves keys out: give return_gaze="weights" or leave it out')
            if cache is not None:
                raise ValueError(f"policy {policy.name!r} makes a cache of its own: leave cache and gaze_offload out")
            cache = policy_cache(policy, self, gaze, {"input_ids": _prompt(args, kwargs), **kwargs})
        if cache is not None:
            kwargs[CACHE] = cache
        trace = None
        if return_gaze:
            asked = return_gaze in ("weights", "mass")
            trace = TraceBuilder(self.model.resolve_gaze(gaze), weights=asked, dense=return_gaze == "mass")
            kwargs |= {"gaze_trace": trace, "return_dict_in_generate": True}
        self._check_positions(args, kwargs)
        output = super().generate(*args, **kwargs)
        paging = cache.paging_stats() if isinstance(cache, PagedGazeCache) else None
        if paging is not None:
            logger.info("%s", paging)
        if not isinstance(output, Tensor) and paging is not None:
            output["gaze_paging"] = paging
        if trace is not None:
            output["gaze"] = self._build_trace(trace, output, kwargs)
            if policy is not None and cache.policy.retained:
                output["retained"] = cache.policy.retained_visual(cache.page_layout)
                output["held"] = dict(cache.policy.retained)
        return output

    def _check_options(self, kwargs: dict[str, Any], return_gaze: bool | str, policy: VisiblePolicy | None) -> None:
        """Options of transformers that cannot be followed here, or that may be taken for ours."""
        if return_gaze not in (True, False, None, "weights", "mass"):
            raise ValueError(
                f'return_gaze is {return_gaze!r}; give True, False, "weights" for attention weights too, or "mass" for '
                "those of dense attention beside them"
            )
        config = kwargs.get("generation_config") or self.generation_config

        def asked(name: str) -> Any:
            return kwargs.get(name, getattr(config, name, None))

        assisted = next((name for name in _ASSISTED if asked(name)), None)
        if assisted == "assistant_early_exit":
            raise ValueError("assistant_early_exit is not supported; give assistant_model or prompt_lookup_num_tokens")
        if assisted == "assistant_model" and not isinstance(kwargs["assistant_model"], GazeGenerationMixin):
            raise ValueError(
                f"assistant_model is a {type(kwargs['assistant_model']).__name__}, which does not take this model's "
                "inputs; give a Cambrian-Gaze model with the same tokenizer, or prompt_lookup_num_tokens"
            )
        if assisted and return_gaze:
            raise ValueError(
                f"return_gaze=True has no meaning with {assisted}: several tokens are tried at once, some in vain; "
                "leave one of them out"
            )
        if assisted and kwargs.get("inputs_embeds") is not None:
            raise ValueError(f"{assisted} compares ids, and inputs_embeds has none: give input_ids alone")
        if assisted and policy is not None:
            raise ValueError(
                f"policy {policy.name!r} does not go with {assisted}: it would decide by tokens that are tried in "
                "vain; leave one of them out"
            )
        if assisted and not self.model.resolve_gaze(kwargs.get("gaze")).route_prompt:
            raise ValueError(f"{assisted} needs route_prompt=True: the tokens that are tried look like a prompt")
        if isinstance(kwargs.get("top_k"), int) and not asked("do_sample"):
            logger.warning(
                "top_k=%d is an option of sampling and has no effect without do_sample=True; the number of regions is "
                'gaze={"top_k": %d}',
                *[kwargs["top_k"]] * 2,
            )

    def init_continuous_batching(self, *args: Any, **kwargs: Any):
        """Refused: transformers' `generate_batch` keeps keys in pages of its own."""
        raise ValueError(
            "generate_batch: gaze attention reads its own cache, not transformers' paged one; give generate the whole "
            "batch, padded on the left as the processor does"
        )

    def stream(self, processor: Any, **options: Any) -> GazeStream:
        """A live chat about frames that keep coming: `.append(frames)` and `.ask(question)`. See `GazeStream`."""
        return GazeStream(self, processor, **options)

    def _check_positions(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See `check_positions`; padding does not count. A `max_length` counts where this call gives it."""
        given = kwargs.get("generation_config")
        tokens = _prompt(args, kwargs) if kwargs.get("inputs_embeds") is None else kwargs["inputs_embeds"]
        if isinstance(tokens, Tensor) and tokens.dim() >= 2 and tokens.numel():
            mask = kwargs.get("attention_mask")
            own = isinstance(mask, Tensor) and mask.shape == tokens.shape[:2]
            prompt = int(mask.sum(1).max()) if own else tokens.shape[1]
            new = kwargs.get("max_new_tokens", (given or self.generation_config).max_new_tokens)
            if new is None and (length := kwargs.get("max_length", getattr(given, "max_length", None))) is not None:
                new = max(length - tokens.shape[1], 0)
            check_positions(self.config, prompt, new or 0)

    def _offloading_cache(self, pool: int | str, gaze: Any, given: Any, kwargs: dict[str, Any]) -> PagedGazeCache:
        if given is not None:
            raise ValueError(
                "gaze_offload makes a cache of its own; with a cache given, make that one a "
                "cambrian_gaze.models.cache.paging.PagedGazeCache and leave gaze_offload out"
            )
        generation_config = kwargs.get("generation_config") or self.generation_config
        if kwargs.get("use_cache", generation_config.use_cache) is False:
            raise ValueError("gaze_offload needs the cache: leave use_cache=False out")
        return PagedGazeCache(self.model.resolve_gaze(gaze), pool, self.config.text_config.num_hidden_layers)

    def _build_trace(self, trace: TraceBuilder, output: Any, kwargs: dict[str, Any]):
        types, grid_thw = kwargs.get("mm_token_type_ids"), kwargs.get("grid_thw")
        beam_indices = output.get("beam_indices")
        rows = [[] for _ in range(len(output.sequences))]
        if types is not None and grid_thw is not None:
            visual = types[(types == IMAGE) | (types == VIDEO)].cpu()
            tokens = grid_thw.prod(1).cpu()
            kinds = visual[tokens.cumsum(0) - tokens].tolist()
            per_row = items_per_row(types, grid_thw)
            repeats = len(output.sequences) // len(per_row)
            grids = [tuple(g) for g in grid_thw.tolist()]
            rows = [
                boxes_of_row([grids[i] for i in items], [kinds[i] for i in items], trace.config)
                for items in per_row
                for _ in range(repeats)
            ]
        new_tokens = len(trace.steps) if beam_indices is None else beam_indices.shape[1]
        return trace.build(new_tokens, rows, grid_thw, beam_indices)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        cache: GazeCache | None = None,
        is_first_iteration: bool = False,
        past_key_values: GazeCache | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Pixels and grids go in once, with the tokens that stand for them; so do embeddings in the place of ids."""
        cache = one_cache(cache, past_key_values)
        types, grids = kwargs.get("mm_token_type_ids"), kwargs.get("grid_thw")
        if types is not None and types.shape[1] < input_ids.shape[1]:
            # Tokens that were generated, or are candidates of assisted decoding, are text.
            kwargs["mm_token_type_ids"] = types = pad_to(types, 1, input_ids.shape[1])
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            is_first_iteration=is_first_iteration,
            inputs_embeds=inputs_embeds,
            **{CACHE: cache},
            **kwargs,
        )
        new = inputs["input_ids"] if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"][..., 0]
        if inputs.get("mm_token_type_ids") is not None:
            # Not every transformers of our range slices them to the tokens that the cache does not hold yet.
            inputs["mm_token_type_ids"] = inputs["mm_token_type_ids"][:, -new.shape[1] :]
        cached = cache is not None and cache.get_seq_length() > 0
        if cached and not self.model.resolve_gaze(kwargs.get("gaze")).route_prompt:
            inputs["routed"] = torch.ones_like(new, dtype=torch.bool)
            if is_first_iteration:
                inputs["routed"][:, :-1] = False  # The rest of a prompt: its last token alone predicts the answer.
        if grids is None:
            return inputs
        if not cached:
            # transformers leaves pixels out of the first call of an assistant, which has its own cache to fill.
            return inputs | {"pixel_values": kwargs.get("pixel_values"), "grid_thw": grids}
        inputs["pixel_values"] = inputs["grid_thw"] = None
        if is_first_iteration:
            seen = cache.last.num_units.tolist()
            unseen = []
            for row, items in enumerate(items_per_row(types, grids)):
                for item in items:
                    if seen[row] <= 0:
                        unseen.append(item)
                    seen[row] -= int(grids[item, 0])
            inputs["pixel_values"], inputs["grid_thw"] = take_items(kwargs.get("pixel_values"), grids, unseen)
        else:
            inputs.pop("mm_token_type_ids", None)
        return inputs

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        visual = repeat_rows(expand_size, input_ids, kwargs)
        kept = {name: kwargs.pop(name) for name in visual}
        input_ids, kwargs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        return input_ids, kwargs | kept | visual

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict, *args: Any, **kwargs: Any):
        """A `GazeCache`, unless the caller brought one or wants none."""
        if generation_config.cache_implementation is not None:
            raise ValueError(
                f"cache_implementation={generation_config.cache_implementation!r} is not supported: gaze attention "
                "reads its own region-major cache; leave the option out"
            )
        if generation_config.use_cache is False and not self.model.resolve_gaze(model_kwargs.get("gaze")).route_prompt:
            raise ValueError("route_prompt=False needs the cache: without it the answer so far looks like the prompt")
        if model_kwargs.get(CACHE) is None and generation_config.use_cache is not False:
            model_kwargs[CACHE] = GazeCache(self.model.resolve_gaze(model_kwargs.get("gaze")))
            return None
        return super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)


def _prompt(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The prompt's ids, under whichever of the names that `generate` has for them; None where there are none."""
    named = (kwargs.get(name) for name in ("input_ids", "inputs"))
    return next((ids for ids in (*args[:1], *named) if ids is not None), None)
