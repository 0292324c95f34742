"""Counterfactual arms: regions are hidden that the answer needs, or others, or all but these.

The text of prompt and answer cannot look at what is hidden, for the whole answer; the picture's own tokens still see
each other. How a region counts for the answer is known from the words that are read from it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from cambrian_gaze.data.records.records import Record
from cambrian_gaze.studies.routing.chosen import regions_of_record

STEERINGS = {
    "hide_needed": "the region of one value, drawn among those that are read from a region of their own",
    "hide_other": "one region that the answer is not read from; the value is the one of hide_needed",
    "force_needed": "all regions but those that the answer is read from",
    "force_other": "the regions that the answer is read from",
}
"""Name → what is hidden."""


@dataclass(frozen=True)
class Steered:
    """What is hidden from the answer to one record."""

    hidden: tuple[int, ...] = ()
    """Regions, rising; empty where the record does not allow the steering (all of its regions are needed, say)."""
    place: int | None = None
    """Which of the record's values is read from the region that is hidden, or would be."""


def steer(record: Record, how: str) -> Steered:
    """What a record's answer may not look at.

    Raises: ValueError for an unknown steering, and where not each value of the record has its regions.
    """
    if how not in STEERINGS:
        raise ValueError(f"no steering {how!r}; known: {', '.join(STEERINGS)}")
    reads = value_regions(record)
    needed = {region for regions in reads for region in regions}
    others = sorted(set(range(regions_of_record(record))) - needed)
    if how.startswith("force"):
        if not (needed and others):
            return Steered()
        return Steered(tuple(others if how == "force_needed" else sorted(needed)))
    alone = [
        place
        for place, regions in enumerate(reads)
        if len(regions) == 1 and sum(regions[0] in one for one in reads) == 1
    ]
    draw = random.Random(f"{record.id} hidden")
    if not (alone and others):
        return Steered()
    place, other = draw.choice(alone), draw.choice(others)
    return Steered((reads[place][0] if how == "hide_needed" else other,), place)


def value_regions(record: Record) -> list[list[int]]:
    """The regions that each of a GazeBench record's values is read from."""
    meta = record.extra["meta"]
    reads = [one["regions"] for one in meta["answer_regions"] if one["regions"]]
    if len(reads) != len(meta["values"]):
        raise ValueError(f"record {record.id!r} has {len(meta['values'])} values, but regions of {len(reads)} words")
    return reads
