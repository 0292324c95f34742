"""`generate` under a `VisiblePolicy`: its cache, and what does not go together with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cambrian_gaze.attention.policy import VisiblePolicy
from cambrian_gaze.attention.policy_state import PolicyState
from cambrian_gaze.gaze.config import BUDGET_FIELDS
from cambrian_gaze.models.cache import GazeCache


def policy_gaze(policy: VisiblePolicy, gaze: Mapping[str, Any] | None) -> dict[str, Any]:
    """Run-time options of the gaze under a policy: every region is seen, and the policy says what of it.

    Raises: ValueError where `gaze` has a budget of its own.
    """
    gaze = dict(gaze or {})
    given = [name for name in (*BUDGET_FIELDS, "image", "video", "dense_layers") if gaze.get(name) is not None]
    if given and not (given == ["keep_ratio"] and gaze["keep_ratio"] == 1.0):
        raise ValueError(
            f"policy {policy.name!r} limits what is seen, and so does gaze's {given[0]}: give one of them"
        )
    bare = {"descriptor_keys": "pre_rope"} if policy.wants_bare_keys else {}
    return gaze | bare | {"keep_ratio": 1.0}


def policy_cache(
    policy: VisiblePolicy, model: Any, gaze: dict[str, Any], kwargs: Mapping[str, Any]
) -> GazeCache:
    """The cache of one call of `generate` with the keyword arguments `kwargs`.

    Raises: ValueError for options that a policy cannot follow.
    """
    settings = kwargs.get("generation_config") or model.generation_config
    if kwargs.get("use_cache", settings.use_cache) is False:
        raise ValueError(f"policy {policy.name!r} decides about the cache: leave use_cache=False out")
    if kwargs.get("hidden_regions") is not None:
        raise ValueError(f"hidden_regions are hidden from routing, and policy {policy.name!r} does not route")
    config = model.model.resolve_gaze(gaze)
    if not config.is_dense:
        raise ValueError(
            f"policy {policy.name!r} limits what is seen, and so does this checkpoint's min_keep_ratio or video budget"
        )
    policy = policy.on_input(model, kwargs)
    return GazeCache(config, PolicyState(policy, model.config.text_config.num_hidden_layers))
