"""The regions that an answer's queries chose, by word and by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cambrian_gaze.data.records.records import Record

if TYPE_CHECKING:
    import numpy as np


def regions_of_record(record: Record) -> int:
    """R, regions of all the pictures of a GazeBench record."""
    meta = record.extra["meta"]
    return meta["regions"][0] * meta["regions"][1] * meta["num_images"]


def as_chosen(answer: Mapping[str, Any], regions: int) -> np.ndarray:
    """bool [tokens, L, H, R]: the regions that the query which predicts each token chose."""
    import numpy as np

    numbers = np.array(answer["regions"])  # [tokens, L, H, K], -1 where fewer than K
    chosen = np.zeros((*numbers.shape[:3], regions + 1), bool)
    np.put_along_axis(chosen, np.where(numbers < 0, regions, numbers), True, axis=3)
    return chosen[..., :regions]


def first_tokens(tokens: Sequence[int], tokenizer: Any) -> list[int]:
    """Place of the first token of each word of an answer. Words of several tokens are judged by their first."""
    places, words = [], 0
    for place in range(len(tokens)):
        count = len(tokenizer.decode(tokens[: place + 1], skip_special_tokens=True).split())
        if count > words:
            places.append(place)
            words = count
    return places
