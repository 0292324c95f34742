"""Policies by name. A new one is a file in this package and a line here."""

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

POLICIES: dict[str, type[VisiblePolicy]] = {
    policy.name: policy
    for policy in (
        *(Random, Uniform, Recent, SnapKV, StaticGaze, InfiniPotV, Hermes, FastV, ReKV, Quest),
        *(AvgPool2, MaxPool2, Downsample, Subsample),
    )
}
"""By the name that `--policy` takes."""


def make_policy(name: str, options: Mapping[str, Any] | None = None) -> VisiblePolicy:
    """A policy by name, e.g. ("recent", {"budget": 72}).

    Raises: ValueError for an unknown name or option, with the nearest, for one that is missing or of a wrong type.
    """
    if name not in POLICIES:
        raise ValueError(f"unknown policy {name!r}{_nearest(name, POLICIES)}")
    fields = {field.name: field for field in dataclasses.fields(POLICIES[name]) if field.metadata.get("option", True)}
    for key in options or {}:
        if key not in fields:
            raise ValueError(f"policy {name!r} has no option {key!r}{_nearest(key, fields)}")
    missing = [
        key for key, field in fields.items() if field.default is dataclasses.MISSING and key not in (options or {})
    ]
    if missing:
        raise ValueError(f"policy {name!r} needs {', '.join(missing)}")
    return POLICIES[name](**(options or {}))


def options_of(policy: VisiblePolicy) -> dict[str, Any]:
    """Name and options of a policy as JSON types: what it is known by in journals and reports."""
    fields = [field.name for field in dataclasses.fields(policy) if field.metadata.get("option", True)]
    return {"name": policy.name} | {name: getattr(policy, name) for name in fields}


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
