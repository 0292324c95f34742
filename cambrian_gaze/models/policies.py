"""`generate` under a `VisiblePolicy`: its cache, and what does not go together with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from cambrian_gaze.attention.policy.policy import UnfitPolicyError, VisiblePolicy
from cambrian_gaze.attention.policy.routing import check_gaze
from cambrian_gaze.attention.policy.state import PolicyState
from cambrian_gaze.gaze.config import BUDGET_FIELDS, GazeConfig
from cambrian_gaze.models.cache.cache import GazeCache


def policy_gaze(policy: VisiblePolicy, gaze: Mapping[str, Any] | None) -> dict[str, Any]:
    """Run-time options of the gaze under a policy: without a budget of its own every region is seen, whatever the
    checkpoint's budget, and the policy alone says what of it.

    Raises: ValueError for a GazeConfig, which is a whole configuration, and for what is no policy.
    """
    if not isinstance(policy, VisiblePolicy):
        raise ValueError(
            f"policy must be a baseline, got {policy!r}; cambrian_gaze.baselines.registry.make_policy makes one by its "
            'name: make_policy("snapkv", {"budget": 72})'
        )
    if isinstance(gaze, GazeConfig):
        raise ValueError(f"policy {policy.name!r} takes run-time options of the gaze, such as {{'top_k': 2}}")
    gaze = dict(gaze or {})
    bare = {"descriptor_keys": "pre_rope"} if policy.wants_bare_keys else {}
    own = any(gaze.get(name) is not None for name in (*BUDGET_FIELDS, "image", "video"))
    return gaze | bare | ({} if own else {"keep_ratio": 1.0, "min_keep_ratio": 0.0})


def policy_cache(policy: VisiblePolicy, model: Any, gaze: dict[str, Any], kwargs: Mapping[str, Any]) -> GazeCache:
    """The cache of one call of `generate` with the keyword arguments `kwargs`.

    Raises: ValueError for options that a policy cannot follow; UnfitPolicyError where the policy says that it cannot
        serve this call.
    """
    settings = kwargs.get("generation_config") or model.generation_config
    if kwargs.get("use_cache", settings.use_cache) is False:
        raise ValueError(f"policy {policy.name!r} decides about the cache: leave use_cache=False out")
    if policy.needs_prompt and kwargs.get("input_ids") is None:
        raise ValueError(f"policy {policy.name!r} reads the prompt: give input_ids, beside inputs_embeds if need be")
    if kwargs.get("hidden_regions") is not None:
        raise ValueError(f"hidden_regions and policy {policy.name!r} both hide what is there: give one of them")
    config = model.model.resolve_gaze(gaze)
    check_gaze(policy, config)
    layers = model.config.text_config.num_hidden_layers
    try:
        served = policy.on_input(model, kwargs)
    except ValueError as error:
        raise UnfitPolicyError(str(error)) from error
    return GazeCache(config, PolicyState(served, layers, config))


def stream_cache(policy: VisiblePolicy, model: Any, gaze: dict[str, Any]) -> GazeCache:
    """The cache of a stream, whose frames come one after the other.

    Raises: ValueError for a policy that needs more than a stream has, and for options that it cannot follow.
    """
    if policy.needs_prompt or policy.prunes_prompt:
        raise ValueError(
            f"policy {policy.name!r} looks at the whole prompt before anything is kept, and a stream has none: give "
            "the frames to generate in one call, or take another policy"
        )
    return policy_cache(policy, model, gaze, {})


def compressed(
    features_of: Callable[[Tensor], Tensor], pixels: Tensor, cache: GazeCache | None, grid: tuple[int, int]
) -> Tensor:
    """Visual features [N, h·w, D] of pixels [N, 3, height, width], as the cache's policy has them. grid: (h, w)."""
    if cache is None or cache.policy is None:
        return features_of(pixels)
    policy = cache.policy.policy
    return policy.on_features(features_of(policy.on_pixels(pixels)).unflatten(1, grid)).flatten(1, 2)
