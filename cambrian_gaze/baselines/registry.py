"""Policies by name. A new one of the package is a file in it and a line here; one of your own is registered."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from cambrian_gaze.attention.policy.policy import VisiblePolicy
from cambrian_gaze.baselines.compression import AvgPool2, Downsample, MaxPool2, Subsample
from cambrian_gaze.baselines.controls import Random, Recent, Uniform
from cambrian_gaze.baselines.fastv import FastV
from cambrian_gaze.baselines.hermes import Hermes
from cambrian_gaze.baselines.infinipot_v import InfiniPotV
from cambrian_gaze.baselines.quest import Quest
from cambrian_gaze.baselines.rekv import ReKV
from cambrian_gaze.baselines.snapkv import SnapKV
from cambrian_gaze.baselines.static_gaze import StaticGaze
from cambrian_gaze.plugins import registers, remedy

POLICIES: dict[str, type[VisiblePolicy]] = {
    policy.name: policy
    for policy in (
        *(Random, Uniform, Recent, SnapKV, StaticGaze, InfiniPotV, Hermes, FastV, ReKV, Quest),
        *(AvgPool2, MaxPool2, Downsample, Subsample),
    )
}
"""By the name that `--policy` takes."""


@registers("policy")
def register_policy(policy: type[VisiblePolicy]) -> type[VisiblePolicy]:
    """Make a policy of your own one that `make_policy` and `--policy` know, under its `name`. A class decorator:

        @register_policy
        @dataclass(frozen=True)
        class Newest(VisiblePolicy):
            name: ClassVar[str] = "newest"
            budget: int

            def on_text(self, tokens: VisualTokens) -> Tensor:  # what stays in memory when text follows
                count = tokens.retained.long().sum(1, keepdim=True)
                return tokens.retained & (tokens.retained.long().cumsum(1) > count - self.budget)

            def retains(self, shown: Shown, layer: int, layers: int) -> int:  # what is promised, and counted
                return min(self.budget, shown.tokens)

    Raises: ValueError for a name that is missing or taken, and for a class that is no frozen dataclass of its own.
    """
    if not (isinstance(policy, type) and issubclass(policy, VisiblePolicy)):
        raise ValueError(f"{policy!r} is no class under VisiblePolicy (cambrian_gaze.attention.policy.policy)")
    if not policy.name or POLICIES.get(policy.name, policy) is not policy:
        what = f"{policy.name!r} is taken" if policy.name else "there is none"
        raise ValueError(f"policy {policy.__name__} needs a name of its own, `name: ClassVar[str] = …`: {what}")
    if "__dataclass_fields__" not in vars(policy) or not policy.__dataclass_params__.frozen:
        raise ValueError(f"policy {policy.name!r}: put @dataclass(frozen=True) above class {policy.__name__}")
    POLICIES[policy.name] = policy
    return policy


def make_policy(name: str, options: Mapping[str, Any] | None = None) -> VisiblePolicy:
    """A policy by name, e.g. ("recent", {"budget": 72}).

    Raises: ValueError for an unknown name or option, with the nearest, for one that is missing or of a wrong type.
    """
    fields = options_known(name)
    for key in options or {}:
        if key not in fields:
            raise ValueError(f"policy {name!r} has no option {key!r}{_nearest(key, fields)}")
    missing = [
        key for key, field in fields.items() if field.default is dataclasses.MISSING and key not in (options or {})
    ]
    if missing:
        raise ValueError(f"policy {name!r} needs {', '.join(missing)}")
    return POLICIES[name](**(options or {}))


def options_known(name: str) -> dict[str, dataclasses.Field]:
    """The options of a policy by name. Raises: ValueError for an unknown policy, with the nearest."""
    if name not in POLICIES:
        raise ValueError(
            f"unknown policy {name!r}{_nearest(name, POLICIES)}; {remedy('policy', name, 'register_policy')}"
        )
    return {field.name: field for field in dataclasses.fields(POLICIES[name]) if field.metadata.get("option", True)}


def options_of(policy: VisiblePolicy) -> dict[str, Any]:
    """Name and options of a policy as JSON types: what it is known by in journals and reports."""
    fields = [field.name for field in dataclasses.fields(policy) if field.metadata.get("option", True)]
    return {"name": policy.name} | {name: getattr(policy, name) for name in fields}


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
