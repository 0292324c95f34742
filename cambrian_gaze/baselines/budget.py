"""A budget of visual tokens: how many a layer keeps per KV head."""

from __future__ import annotations

from dataclasses import dataclass

from cambrian_gaze.attention.policy.policy import Shown, VisiblePolicy


@dataclass(frozen=True)
class BudgetPolicy(VisiblePolicy):
    """Keeps `budget` visual tokens per layer and KV head, or all where there are fewer."""

    budget: int
    """Visual tokens."""

    def __post_init__(self) -> None:
        at_least_one(self.name, budget=self.budget)

    def retains(self, shown: Shown, layer: int, layers: int) -> int:
        return min(self.budget, shown.tokens)


def at_least_one(name: str, **numbers: int) -> None:
    """Raises: ValueError for a number that is no integer of at least 1."""
    for option, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"policy {name!r}: {option} must be an integer of at least 1, got {value!r}")


def between(name: str, low: float, high: float, **numbers: float) -> None:
    """Raises: ValueError for a number outside [low, high]."""
    for option, value in numbers.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"policy {name!r}: {option} must be between {low:g} and {high:g}, got {value!r}")
