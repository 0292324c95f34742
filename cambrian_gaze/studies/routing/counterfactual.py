"""What becomes of a value, and of those before and after it, when the region that it is read from is hidden."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cambrian_gaze.studies import statistics

if TYPE_CHECKING:
    import numpy as np

SPANS = {"the value": (0, 0), "values before it": (None, -1), "values after it": (1, None)}
"""Name → first and last place, counted from the value whose region is hidden."""
Span = tuple[int | None, int | None]


def steered_arms(results: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """(family, arm, arms): arms that hide a region of single values, by the arm of the same model that hides none."""
    for family in statistics.families(results):
        groups: dict[str, list[str]] = {}
        for arm in results["arms"]:
            if (arm.get("steer") or "").startswith("hide") and any(_places(results, arm["name"], family)):
                groups.setdefault(_plain(results, arm), []).append(arm["name"])
        yield from ((family, plain, arms) for plain, arms in groups.items())


def around(results: Mapping[str, Any], arm: str, like: str, family: str, span: Span) -> statistics.Estimate | None:
    """Accuracy of an arm's values at places counted from the value whose region the arm `like` hides, over the
    questions in which it hides one; None where there are no such places."""
    seeds = _right(results, arm, like, family, span)
    return statistics.estimate_of(seeds) if seeds else None


def share_around(results: Mapping[str, Any], arm: str, like: str, family: str, offset: int) -> float:
    """The same at one place, without an interval; nan where there is none."""
    seeds = _right(results, arm, like, family, (offset, offset))
    return float(sum(r.sum() for r, _ in seeds) / sum(n.sum() for _, n in seeds)) if seeds else float("nan")


def _right(
    results: Mapping[str, Any], arm: str, like: str, family: str, span: Span
) -> list[tuple[np.ndarray, np.ndarray]]:
    """As `statistics.right_of`, of the seeds and questions that have such places."""
    import numpy as np

    seeds = []
    for seed in results["seeds"].values():
        asked = zip(seed["arms"][arm]["right"][family], seed["arms"][like]["places"][family], strict=True)
        texts = [_span(text, place, *span) for text, place in asked if place is not None]
        texts = [text for text in texts if text]
        if texts:
            seeds.append((np.array([t.count("1") for t in texts], float), np.array([len(t) for t in texts], float)))
    return seeds


def _span(text: str, place: int, low: int | None, high: int | None) -> str:
    first = 0 if low is None else place + low
    end = len(text) if high is None else place + high + 1
    return text[max(first, 0) : max(end, 0)]


def _places(results: Mapping[str, Any], arm: str, family: str) -> list[bool]:
    return [place is not None for seed in results["seeds"].values() for place in seed["arms"][arm]["places"][family]]


def _plain(results: Mapping[str, Any], steered: Mapping[str, Any]) -> str:
    """The arm of the same model that nothing is hidden from, under the same gaze where there is one."""
    plain = [
        arm
        for arm in results["arms"]
        if arm["model"] == steered["model"] and not (arm.get("steer") or arm["policy"] or arm["blind"] or arm["masked"])
    ]
    same = [arm for arm in plain if arm["gaze"] == steered["gaze"]]
    if not plain:
        raise ValueError(f"{steered['name']} has no arm of model {steered['model']} beside it that hides nothing")
    return (same or plain)[0]["name"]
