"""How much the gaze moves from one word of an answer to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from math import comb
from typing import Any

from cambrian_gaze.data.records.records import Record
from cambrian_gaze.studies.routing.chosen import as_chosen, first_tokens, regions_of_record


def gaze_shifts(records: Sequence[Record], answers: Sequence[Mapping[str, Any]], tokenizer: Any) -> dict[str, Any]:
    """Over pairs of words one after the other, right or wrong, by head: the regions chosen for each, compared.

    Returns: `pairs`; `changed` [L][H], the share of pairs whose sets differ; `distance` [L][H], the mean Jaccard
    distance 1 − |A ∩ B| / |A ∪ B|; and `random`, both as expected of sets of the same sizes drawn at random, means over
    heads. What is chosen once has 0 for both.
    """
    import numpy as np

    changed, distance, random = [], [], []
    for record, answer in zip(records, answers, strict=True):
        regions = regions_of_record(record)
        chosen = as_chosen(answer, regions)[first_tokens(answer["tokens"], tokenizer)]
        before, after = chosen[:-1], chosen[1:]
        common, all_of = (before & after).sum(-1), (before | after).sum(-1)
        changed.append(common < all_of)
        distance.append(1 - common / np.maximum(all_of, 1))
        distance[-1][all_of == 0] = 0.0
        for sizes in zip(before.sum(-1).flat, after.sum(-1).flat, strict=True):
            random.append(random_shift(regions, *map(int, sizes)))
    pairs = sum(map(len, changed))
    if not pairs:
        return {"pairs": 0}
    expected = np.array(random).mean(0)
    return {
        "pairs": pairs,
        "changed": np.concatenate(changed).mean(0).tolist(),
        "distance": np.concatenate(distance).mean(0).tolist(),
        "random": {"changed": float(expected[0]), "distance": float(expected[1])},
    }


@cache
def random_shift(regions: int, first: int, second: int) -> tuple[float, float]:
    """(probability that they differ, expected Jaccard distance) of two sets of `first` and `second` of R regions, each
    drawn at random."""
    if not first + second:
        return 0.0, 0.0
    same = 1 / comb(regions, first) if first == second else 0.0
    overlap = 0.0
    for common in range(max(0, first + second - regions), min(first, second) + 1):
        share = comb(first, common) * comb(regions - first, second - common) / comb(regions, second)
        overlap += share * common / (first + second - common)
    return 1 - same, 1 - overlap
