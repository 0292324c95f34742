"""The result table of the README, from `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADER = (
    "| arm | values read | 95 % CI | global | visual KV attended, of 64 | in memory | tokens/s |",
    "|---|---|---|---|---|---|---|",
)


def results_table(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, one line per arm. "In memory": visual tokens per layer and KV head that the answer could still see."""
    lines = [
        f"| {arm['title']} | {arm['accuracy']:.3f} | {arm['ci95'][0]:.3f} – {arm['ci95'][1]:.3f} "
        f"| {arm['accuracy_global']:.3f} | {arm['attended_visual_kv']:g} | {arm['retained_visual_kv']:g} "
        f"| {arm['tokens_per_s']:,.0f} |"
        for arm in arms.values()
    ]
    return "\n".join([*HEADER, *lines]) + "\n"
