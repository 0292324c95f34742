"""How much of the dense attention lies where heads look, and on how few entries, by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cambrian_gaze.data.records.records import Record
from cambrian_gaze.studies.routing.recall import read_steps

NAMES = ("inside", "best", "half", "most", "half_seen", "most_seen")
"""See `evaluation.attention_mass.answer_mass`."""


def attention_mass(records: Sequence[Record], answers: Sequence[Mapping[str, Any]], tokenizer: Any) -> dict[str, Any]:
    """Means over heads and steps of what the answers keep as `mass`, by layer.

    Returns: `all`, over the steps of all answers, and `read`, over those that predict a word read from one region in an
    answer that is right: `steps` and, where there are some, a list [L] for each of `NAMES`.
    """
    import numpy as np

    found: dict[str, list[Any]] = {"all": [], "read": []}
    for record, answer in zip(records, answers, strict=True):
        values = np.array([answer["mass"][name] for name in NAMES]).mean(-1)  # [names, tokens, L]
        found["all"].append(values)
        found["read"].append(values[:, [step for step, _ in read_steps(record, answer, tokenizer)]])
    whole = {which: np.concatenate(parts, axis=1) for which, parts in found.items() if parts}
    return {
        which: {"steps": values.shape[1]}
        | (dict(zip(NAMES, values.mean(1).tolist(), strict=True)) if values.shape[1] else {})
        for which, values in whole.items()
    }
